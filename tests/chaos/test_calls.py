"""The checker finds calls without a run or with a wrong key."""

import time
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.chaos.evidence import Call, Evidence
from tests.chaos.sound import A_MINUTE_BEFORE, Reader, SoundRun, changed, claimed, judge


def call(job_id: UUID, *, at: float) -> Call:
    return Call(job_id=job_id, key=f"{job_id}-0", answer="answer", started_at=at, ended_at=None)


@pytest.mark.parametrize("rule", ["no call after a cancel", "calls belong to runs"])
@pytest.mark.parametrize(
    ("after", "found"),
    [
        ((1.5, "nobody"), 0),
        ((2.5, "nobody"), 1),
        ((6.0, "anybody"), 0),
        ((9.0, "anybody"), 1),
        ((6.0, "its worker"), 0),
        ((6.0, "another"), 1),
    ],
)
async def test_call_after_the_end_of_a_run_is_found_once_its_worker_could_have_known(
    left: SoundRun, reader: Reader, rule: str, after: tuple[float, str], found: int
) -> None:
    """The grace is two seconds. The isolation of the worker, and three seconds after it, do not count.

    A call that only an isolation excuses is not examined.
    """
    seconds, isolated = after
    acknowledged = left.evidence.cancelled[left.jobs["hung"]]
    spans = [(acknowledged, acknowledged + 2)]
    whose = {"its worker": (await claimed(reader, left.jobs["hung"]))[1], "another": uuid4()}

    def late(evidence: Evidence) -> None:
        evidence.calls.append(call(left.jobs["hung"], at=acknowledged + seconds))
        evidence.isolated = spans if isolated == "anybody" else []
        evidence.isolated_workers = {whose[isolated]: spans} if isolated in whose else {}

    cancelled_only = rule == "no call after a cancel"
    before = sum(one.job_id in left.evidence.cancelled or not cancelled_only for one in left.evidence.calls)
    verdict = (await judge(reader, changed(left, late)))[rule]

    excused = isolated != "nobody" and not found
    assert (verdict.examined, verdict.violations) == (before + (not excused), found)


async def test_call_for_a_job_that_was_not_claimed_is_found(left: SoundRun, reader: Reader) -> None:
    """A call before the claim, and a call for an unknown job."""

    def ask(evidence: Evidence) -> None:
        evidence.calls += [call(left.jobs["waiting"], at=time.time()), call(uuid4(), at=time.time())]
        evidence.calls.append(call(left.jobs["scored"], at=0.0))

    report = await judge(reader, changed(left, ask))

    assert report["calls belong to runs"].violations == 3


async def test_call_between_two_runs_of_its_job_is_found(left: SoundRun, reader: Reader) -> None:
    """A worker continues after its run was rescued and before the next run begins."""
    await reader.execute(A_MINUTE_BEFORE, [left.jobs["scored"], 4])
    await reader.execute("DELETE FROM runtime.transitions WHERE job_id = %s", [left.jobs["hung"]])
    claimed_at, _ = await claimed(reader, left.jobs["scored"])

    def ask(evidence: Evidence) -> None:
        evidence.calls = [call(left.jobs["scored"], at=claimed_at + 30)]

    report = await judge(reader, changed(left, ask))

    assert report["calls belong to runs"].violations == 1


async def test_call_without_a_job_is_found(left: SoundRun, reader: Reader) -> None:
    """The provider counted one call more than there are calls with a job."""
    report = await judge(reader, changed(left, lambda e: setattr(e, "requests", e.requests + 1)))

    assert report.failed == ["every call names its job"]


async def test_question_asked_under_another_key_on_the_next_attempt_is_found(left: SoundRun, reader: Reader) -> None:
    """A job has one question. The key must be the same on each attempt, even if the text of the request differs."""

    def change_key(evidence: Evidence) -> None:
        first, second, again = [one for one in evidence.calls if one.job_id == left.jobs["scored"]]
        assert (first.key, first.body, again.again) == (second.key, second.body, True)
        mark = evidence.calls.index(second)
        evidence.calls[mark] = replace(second, key=f"{second.job_id}-anew", body="other words")

    report = await judge(reader, changed(left, change_key))

    assert report.failed == ["a repeated request keeps its key"]
    assert set(report["a repeated request keeps its key"].jobs) == {str(left.jobs["scored"])}


@pytest.mark.parametrize("change", [{"job_id": uuid4()}, {"body": "other words"}], ids=["two jobs", "two requests"])
async def test_key_of_two_requests_is_found(left: SoundRun, reader: Reader, change: dict[str, Any]) -> None:
    """A provider that repeats its answer for a known key would give one job the answer of the other."""

    def share(evidence: Evidence) -> None:
        evidence.calls.append(replace(evidence.calls[-1], **change))

    report = await judge(reader, changed(left, share))

    assert "a key names one request" in report.failed
    assert report["a key names one request"].jobs == [left.evidence.calls[-1].key]
