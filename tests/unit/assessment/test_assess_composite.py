"""Several weighted assessments in one: they run at once, and failed parts are listed."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill_testing.model import ScriptedModel
from gristmill_testing.waiting import until
from tests.support.fakes.judge import said
from workers.assessment.registry import AssessorTools, perform
from workers.assessment.request import parse_request
from workers.assessment.result import AssessmentResult
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable

GOOD = {"criteria": [{"name": "a"}], "content": "good"}
BAD = {"criteria": [{"name": "a"}]}


def part(options=GOOD, **more):
    return {"assessmentType": "llm_rubric", "options": options, **more}


async def composed(*parts, llm=None, last_attempt=False, progress=None):
    request = parse_request({"serverName": "acme", "assessmentType": "composite", "options": {"parts": list(parts)}})
    reported = [] if progress is None else progress

    async def report(share):
        reported.append(share)

    llm = llm or ScriptedModel(said(a=60))
    return await perform(request, AssessorTools(llm=llm, progress=report, last_attempt=last_attempt))


async def test_the_whole_is_the_mean_of_its_parts_by_weight():
    """The result of each part is stored."""
    result = await composed(part(weight=3), part(name="second"), llm=ScriptedModel(said(a=80), said(a=40)))

    assert result.score == 0.7
    assert [(one.name, one.share, one.status) for one in result.parts] == [
        ("llm_rubric", 0.75, "completed"),
        ("second", 0.25, "completed"),
    ]
    assert [one.result.score for one in result.parts if one.result] == [0.8, 0.4]
    assert (result.prompt_tokens, result.flags) == (200, [])
    assert AssessmentResult.model_validate(result.model_dump(mode="json")) == result


async def test_a_failed_part_is_listed_and_the_weights_of_the_others_renormalised():
    """The first flag names the failed part."""
    result = await composed(part(weight=1), part(BAD, name="bad", weight=3), part(weight=1))

    failed = result.parts[1]
    assert (failed.status, failed.share, failed.result) == ("failed", 0.0, None)
    assert failed.error == "options.content is required, got nothing"
    assert [one.share for one in result.parts] == [0.5, 0.0, 0.5]
    assert result.score == 0.6
    assert result.flags[0] == "1 of 3 parts failed (bad): weights renormalised"


async def test_an_unknown_type_fails_only_its_part():
    """The results of the other parts are kept, because they are already paid for."""
    result = await composed(part(), {"assessmentType": "vibes"})

    assert result.parts[1].error is not None
    assert result.parts[1].error.startswith("assessmentType must be one of composite")


async def test_all_parts_failed_fails_the_whole_and_names_each():
    """Without a successful part there is no mean."""
    with pytest.raises(
        Permanent, match=r"^every part failed: bad: options.content is required.*; vibes: assessmentType"
    ):
        await composed(part(BAD, name="bad"), {"assessmentType": "vibes"})


async def test_a_retryable_error_is_retried_while_an_attempt_is_left():
    """A temporary error costs an attempt and not a part of the result."""
    with pytest.raises(Retryable, match=r"^llm_rubric: model is away$"):
        await composed(part(), part(), llm=ScriptedModel(said(a=60), Retryable("model is away")))


async def test_the_last_attempt_keeps_what_succeeded():
    """No retry is left, so the job completes without the failed part."""
    llm = ScriptedModel(said(a=60), Retryable("model is away"))

    result = await composed(part(), part(), llm=llm, last_attempt=True)

    assert [one.status for one in result.parts] == ["completed", "failed"]
    assert result.parts[1].error == "model is away"


async def test_the_last_attempt_with_nothing_succeeded_fails_with_the_errors():
    """The job fails like any job without attempts."""
    with pytest.raises(Retryable, match="model is away"):
        await composed(part(), part(), llm=ScriptedModel(Retryable("model is away")), last_attempt=True)


async def test_a_rate_limit_of_one_part_makes_the_whole_wait_as_long_as_asked():
    """A rate limit costs no attempt, not even the last one."""
    limits = [RateLimited("slow down", delay=timedelta(seconds=seconds)) for seconds in (2, 7)]

    with pytest.raises(RateLimited) as raised:
        await composed(part(), part(), part(), llm=ScriptedModel(said(a=1), *limits), last_attempt=True)

    assert raised.value.delay == timedelta(seconds=7)


async def test_parts_run_at_once_and_report_together():
    """The progress is the weighted mean of the parts' progress, and only grows."""
    llm = ScriptedModel(said(a=60))
    progress: list[float] = []
    llm.released.clear()
    running = asyncio.create_task(composed(part(weight=3), part(), part(), llm=llm, progress=progress))

    await until(lambda: len(llm.asked) == 3)
    llm.released.set()
    await running

    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert 0 < progress[0] < 1


async def test_a_cancelled_composite_leaves_no_part_running():
    """Cancelling the job ends all calls of its parts."""
    llm = ScriptedModel(said(a=60))
    llm.released.clear()
    running = asyncio.create_task(composed(*[part()] * 4, llm=llm))
    await until(lambda: len(llm.asked) == 4)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert llm.cancelled == 4


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ([], "options.parts must have at least 1 item, got \\[\\]"),
        ([{"assessmentType": "composite"}], "options.parts.0.assessmentType must not be 'composite' itself"),
        ([part(weight=-1)], "options.parts.0.weight must be greater than or equal to 0.01, got -1"),
        ([{"options": {}}], "options.parts.0.assessmentType is required, got nothing"),
        ([part()] * 11, "options.parts must have at most 10 items"),
    ],
)
async def test_a_composite_that_cannot_be_read_is_refused_whole(parts, line):
    """It is refused before any model is called."""
    with pytest.raises(Permanent, match=line):
        await composed(*parts)


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0.01, 1_000), st.booleans()), min_size=1, max_size=6))
async def test_failed_parts_never_move_the_score_out_of_the_range_of_the_others(parts):
    """The weight of a failed part does not matter."""
    scores = [score / 100 for score, _, works in parts if works]
    asked = [part(GOOD if works else BAD, weight=weight) for _, weight, works in parts]
    llm = ScriptedModel(*[said(a=score) for score, _, works in parts if works] or [said(a=1)])

    if not scores:
        with pytest.raises(Permanent, match="every part failed"):
            await composed(*asked, llm=llm)
        return
    result = await composed(*asked, llm=llm)

    assert min(scores) - 1e-3 <= result.score <= max(scores) + 1e-3
    assert sum(one.share for one in result.parts) == pytest.approx(1.0, abs=1e-3)
    assert [one.status == "completed" for one in result.parts] == [works for _, _, works in parts]
