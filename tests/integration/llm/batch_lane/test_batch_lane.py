"""Jobs in the batch lane, from their first run to their last: one question, one line, one answer, half the price."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from gristmill_testing.waiting import until
from tests.support.batching import MODEL, PROVIDER, Lane, batching
from tests.support.fakes.openai_server import FakeOpenAI
from workers.runtime.enqueue import enqueue


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A provider with batches."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(params=["compatible", "openrouter"])
def kind(request) -> str:
    """The form of the provider's batches: files, or requests in the call."""
    return str(request.param)


@pytest.fixture
async def lane(database_url, registry, jobs, fake, kind) -> AsyncIterator[Lane]:
    """A mill with a batch lane."""
    async with batching(database_url, registry, jobs, fake, kind=kind) as lane:
        yield lane


files = pytest.mark.parametrize("kind", ["compatible"], indirect=True)


async def test_jobs_are_answered_by_one_batch_for_half_the_price(lane, fake):
    """Each question is a line, each answer is booked once at the price of the lane, and nothing is asked beside it."""
    jobs = await lane.put(5)
    await lane.sent()
    await lane.parked()

    await lane.finish()
    await lane.ended()

    assert fake.calls == 0
    assert len(fake.batches.batches) == 1
    assert len(fake.batches.lines) == 5
    calls = await lane.calls()
    assert [(one["state"], one["lane"], one["provider"], one["model"]) for one in calls] == [
        ("settled", "batch", PROVIDER, MODEL)
    ] * 5
    batch = await lane.batch()
    assert {one["batch_id"] for one in calls} == {batch["id"]}
    assert {one["job_id"] for one in calls} == set(jobs)
    # 100 tokens in and 20 out at $1 and $2 a million; a batch costs half.
    assert {float(one["usd"]) for one in calls} == {0.00007}
    assert (await lane.paid())["tokens"] == fake.batches.tokens
    assert batch["counts"]["completed"] == 5


async def test_a_batch_is_paid_by_the_owners_of_its_jobs_however_often_it_is_looked_at(lane, fake):
    """Row 17: two owners share a batch; each call is booked once, to the owner and job that asked, by nobody's look."""
    alice, bob = uuid.uuid4(), uuid.uuid4()
    of_alice, of_bob = await lane.put(2, owner=alice), await lane.put(1, task="Judge well.", owner=bob)
    await lane.sent()
    await lane.parked()
    for _ in range(4):
        await lane.poll()
        await lane.sent()  # the look has ended
    under_way = {one["state"] for one in await lane.calls()}

    await lane.finish()
    await lane.ended()

    assert under_way == {"reserved"}
    booked = {(one["job_id"], one["owner_id"], one["state"]) for one in await lane.calls()}
    assert booked == {(job, alice, "settled") for job in of_alice} | {(job, bob, "settled") for job in of_bob}
    assert len(await lane.calls()) == 3


async def test_a_job_says_why_it_waits(lane, jobs):
    """It is in the batch lane, and until when; it has spent no attempt."""
    [job] = await lane.put(1)
    await lane.parked()

    [row] = await jobs.sql("SELECT wait_reason, retry_count FROM runtime.jobs WHERE id = %s", job)

    assert row["wait_reason"].startswith(f"snoozed: in the batch lane of {PROVIDER} until ")
    assert row["retry_count"] == 0


async def test_a_job_runs_twice_and_settles_under_its_own_fence(lane, jobs):
    """The first run parks it, its answer wakes it, and the second run completes it."""
    [job] = await lane.put(1)
    await lane.sent()
    await lane.parked()
    await lane.finish()
    await lane.ended()

    assert await jobs.actions(job) == ["enqueue", "claim", "snooze", "claim", "complete"]


@files
async def test_a_job_without_a_lane_is_answered_at_once(lane, fake):
    """The batch lane is for those who ask for it."""
    await lane.put(1, lane="normal")
    await lane.ended()

    assert fake.calls == 1
    assert await lane.requests() == []
    assert await lane.batches() == []


async def test_expired_and_failed_lines_alone_are_asked_again(lane, fake):
    """Row 19: what is answered is taken; the rest goes into another batch, and only that."""
    fake.script(
        batches={"outcomes": [{"about": "profile 1", "kind": "expired"}, {"about": "profile 2", "kind": "error"}]}
    )
    jobs = await lane.put(4)
    await lane.sent()
    await lane.parked()
    await lane.finish()
    await lane.ended([jobs[0], jobs[3]])
    await lane.sent(2)

    fake.script(batches={"outcomes": []})
    await lane.finish()
    await lane.ended()

    first, second = fake.batches.batches
    assert len(first.lines) == 4
    assert sorted(line["custom_id"] for line in second.lines) == sorted(
        one["custom_id"] for one in await lane.requests() if one["job_id"] in {jobs[1], jobs[2]}
    )
    paid = await lane.paid()
    assert (paid["settled"], paid["failed"], paid["tokens"]) == (4, 2, fake.batches.tokens)
    assert fake.calls == 0


async def test_partial_results_of_an_expired_batch_are_taken(lane, fake):
    """Row 20: an expired batch has answered some lines; the others are sent again, in the batch lane."""
    fake.script(batches={"outcomes": [{"about": "profile 0", "kind": "answer"}]})
    jobs = await lane.put(3)
    await lane.sent()
    await lane.parked()
    await lane.finish("expired")
    await lane.ended(jobs[:1])
    await lane.sent(2)

    await lane.finish()
    await lane.ended()

    assert [len(one.lines) for one in fake.batches.batches] == [3, 2]
    assert (await lane.paid())["tokens"] == fake.batches.tokens


async def test_results_are_matched_by_name_whatever_their_order_and_number(lane, fake):
    """Row 19: they come backwards, one twice, one with lines that nobody can read; each job gets its own answer."""
    fake.script(
        batches={"outcomes": [{"about": "profile 1", "kind": "twice"}, {"about": "profile 2", "kind": "strange"}]}
    )
    jobs = await lane.put(3)
    await lane.sent()
    await lane.parked()
    await lane.finish()
    await lane.ended()

    fake.script(batches={"outcomes": []})
    alone = await lane.put(3, task="Judge. ", lane="normal")
    await lane.ended(alone)
    scores = await lane.jobs.sql("SELECT id, parsed_score -> 'overall' AS score FROM scoring.scoring_jobs")
    by_id = {row["id"]: row["score"] for row in scores}
    assert [by_id[one] for one in jobs] == [by_id[one] for one in alone]
    assert (await lane.paid())["settled"] == 3 + fake.calls


async def test_a_line_that_nobody_answers_is_left_to_the_normal_lane(lane, fake):
    """After three batches without an answer the question is asked at once, before its time is over."""
    fake.script(batches={"outcomes": [{"about": "profile 0", "kind": "missing"}]})
    await lane.put(1)
    for count in (1, 2, 3):
        await lane.sent(count)
        await lane.parked()
        await lane.finish()
    await lane.ended()

    assert len(fake.batches.batches) == 3
    assert fake.calls == 1
    paid = await lane.paid()
    assert (paid["settled"], paid["failed"], paid["reserved"]) == (1, 3, 0)


async def test_the_normal_lane_takes_over_when_the_time_is_nearly_over(lane, fake):
    """Row 20: a batch that is pending for too long is not waited for; the job is answered at the normal price."""
    jobs = await lane.put(2)
    await lane.sent()
    await lane.parked()

    await lane.take_over()
    await lane.ended()

    assert fake.calls == 2
    # Nobody waits for the batch any more: it is cancelled where it is.
    await lane.poll()
    await until(lambda: fake.batches.cancelled == ["batch_0"], within=20)
    await lane.poll()

    async def closed():
        return (await lane.batch())["status"] == "completed"

    await until(closed, within=20)
    assert await lane.states(jobs) == ["completed"] * 2
    assert (await lane.paid())["reserved"] == 0


async def test_cancelling_a_job_takes_its_line_out_before_it_is_sent(database_url, registry, jobs, fake):
    """A question whose job has ended is in no batch."""
    async with batching(database_url, registry, jobs, fake) as lane:
        cancelled, kept = await lane.put(2)
        await lane.jobs.sql("SELECT runtime.cancel(%s, 'not wanted')", cancelled)
        await lane.sent()
        await lane.parked(1)
        await lane.finish()
        await lane.ended([kept])

    assert not any(line.startswith(cancelled.hex) for line in fake.batches.lines)


async def test_a_batch_is_cancelled_when_no_job_waits_for_it(lane, fake):
    """Row 19: cancelling the last job cancels the batch upstream; with one job left it goes on."""
    jobs = await lane.put(2)
    await lane.sent()
    await lane.parked()
    await lane.jobs.sql("SELECT runtime.cancel(%s, 'not wanted')", jobs[0])
    await lane.poll()
    await lane.sent()
    assert fake.batches.cancelled == []

    await lane.jobs.sql("SELECT runtime.cancel(%s, 'not wanted')", jobs[1])
    await lane.poll()

    await until(lambda: fake.batches.cancelled == ["batch_0"], within=20)


async def test_cancelling_the_batch_cancels_it_upstream_and_frees_its_jobs(lane, fake):
    """An operator cancels the batch job: nothing is billed behind our back, and the jobs take the normal lane."""
    jobs = await lane.put(2)
    await lane.sent()
    await lane.parked()
    batch = await lane.batch()

    await lane.jobs.sql("SELECT runtime.cancel(%s, 'stop it')", batch["id"])
    await until(lambda: fake.batches.cancelled == ["batch_0"], within=20)
    await lane.sent()
    await lane.poll()
    await lane.ended(jobs)

    assert fake.calls == 2
    assert len(fake.batches.batches) == 1
    assert (await lane.paid())["reserved"] == 0


@files
async def test_a_provider_without_batches_leaves_its_questions_to_the_normal_lane(lane, fake):
    """A local server has no such API: the job is answered all the same."""
    fake.script(batches={"refuses": 404})
    await lane.put(2)
    await lane.ended()

    assert fake.calls == 2
    assert {row["provider_status"] for row in await lane.batches()} <= {"not offered", None}


async def test_a_batch_that_is_refused_as_a_whole_leaves_its_jobs_to_the_normal_lane(lane, fake):
    """Another batch of the same lines would be refused too."""
    fake.script(batches={"fails_with": "invalid_file"})
    await lane.put(2)
    await lane.sent()
    await lane.parked()
    await lane.poll()
    await lane.ended()

    assert fake.calls == 2
    assert len(fake.batches.batches) == 1


async def test_a_full_queue_of_the_provider_costs_a_line_no_try(lane, fake):
    """Row 18: the provider's allowance of enqueued tokens is used: the lines wait for another batch."""
    fake.script(batches={"fails_with": "token_limit_exceeded"})
    await lane.put(2)
    await lane.sent()
    await lane.parked()
    await lane.poll()

    async def waiting():
        return [(one["state"], one["tries"]) for one in await lane.requests()] == [("waiting", 0)] * 2

    await until(waiting, within=20)
    assert fake.calls == 0


@files
async def test_batches_stay_within_the_allowance_of_enqueued_tokens(lane, fake, jobs):
    """Row 18: it is reserved at submit and free again at the end; windows per minute have nothing to do with it."""
    await jobs.sql(
        "INSERT INTO llm.limits (provider, measure, at_most, window_seconds) VALUES ('p0', 'requests', 1, 60)"
    )
    await lane.put(1, names=["only one"])
    await lane.sent()
    tokens = (await lane.requests())[0]["input_tokens"]
    await jobs.sql("INSERT INTO llm.batch_allowances (provider, enqueued_tokens) VALUES ('p0', %s)", int(tokens * 1.5))
    await lane.put(1, names=["one more"])

    async def held():
        rows = await jobs.sql("SELECT wait_reason FROM runtime.jobs WHERE stage = 'llm.batch'")
        return any("the allowance of enqueued tokens" in (row["wait_reason"] or "") for row in rows)

    await until(held, within=20)
    assert len(fake.batches.batches) == 1

    await lane.parked()
    await lane.finish()
    await lane.ended(lane.enqueued[:1])
    await jobs.unguarded("UPDATE llm.batches SET due_at = NULL WHERE status = 'pending'")
    await lane.sent(2)

    assert [len(one.lines) for one in fake.batches.batches] == [1, 1]
    assert await jobs.sql("SELECT 1 FROM llm.window_counts") == []


@files
async def test_an_invalid_answer_is_asked_again_in_the_lane(lane, fake):
    """The second question quotes the error; both are paid at the price of the lane, and the job completes."""
    fake.script(batches={"outcomes": []})
    await lane.put(1, names=["profile 0"])
    await lane.sent()
    await lane.parked()
    [line] = fake.batches.batches[0].lines
    fake.batches.batches[0].lines = [line]
    answers = fake.batches._complete
    fake.batches._complete = lambda request: (
        answers(request)
        | {
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "rather good"}}
            ]
        }
    )
    await lane.finish()
    await lane.sent(2)
    fake.batches._complete = answers
    await lane.parked()
    await lane.finish()
    await lane.ended()

    assert fake.calls == 0
    first, second = (one.lines[0] for one in fake.batches.batches)
    assert first["custom_id"] != second["custom_id"]
    assert "rather good" in str(second["body"]["messages"])
    assert (await lane.paid())["settled"] == 2


@files
async def test_a_composite_keeps_all_its_questions_before_it_waits(lane, fake, jobs):
    """Its parts ask at once: one batch has them all, and each is asked and paid once."""
    criteria = [{"name": "clarity", "description": "plain words"}]
    parts = [
        {"assessmentType": "llm_rubric", "name": f"part {n}", "options": {"criteria": criteria, "content": f"text {n}"}}
        for n in range(6)
    ]
    request = {"serverName": "Server", "assessmentType": "composite", "options": {"parts": parts}}
    async with jobs.database.session() as session:
        payload = {"assessment_id": "a", "request_data": request}
        job = await enqueue(session, "assessment.assess", payload, lane="batch")

    await lane.sent()

    assert [len(one.lines) for one in fake.batches.batches] == [6]
    assert {one["job_id"] for one in await lane.requests()} == {job.id}
    assert fake.calls == 0


@files
async def test_a_spent_budget_moves_its_jobs_to_the_batch_lane(lane, fake, jobs):
    """``then batch``: what the budget has no room for is answered for half the price, later."""
    await jobs.sql(
        """INSERT INTO llm.budgets (name, scope, "window", "then", tokens) VALUES ('b', 'all', 'day', 'batch', 10)"""
    )
    await lane.put(2, lane="normal")
    await lane.sent()
    await lane.parked()
    await lane.finish()
    await lane.ended()

    assert fake.calls == 0
    assert {(one["lane"], one["state"]) for one in await lane.calls()} == {("batch", "settled")}


@files
async def test_a_batch_that_a_budget_refuses_is_not_sent(lane, fake, jobs):
    """``then stop`` holds in both lanes: the questions wait, nothing is reserved, and the batch says why."""
    await jobs.sql(
        """INSERT INTO llm.budgets (name, scope, "window", "then", tokens) VALUES ('b', 'all', 'day', 'stop', 10)"""
    )
    await lane.put(2)

    async def held():
        rows = await jobs.sql("SELECT wait_reason FROM runtime.jobs WHERE stage = 'llm.batch'")
        return any("budget 'b'" in (row["wait_reason"] or "") for row in rows)

    await until(held, within=15)
    assert fake.batches.batches == []
    assert {one["state"] for one in await lane.requests()} == {"waiting"}
    assert await lane.calls() == []


@files
async def test_a_sum_that_differs_from_the_lines_is_told(lane, fake, capsys):
    """Row 17: the provider's usage of the batch cross-checks what was booked."""
    fake.script(batches={"wrong_usage": 1_000})
    await lane.put(2)
    await lane.sent()
    await lane.parked()
    await lane.finish()
    await lane.ended()

    async def closed():
        return (await lane.batch())["status"] == "completed"

    await until(closed, within=15)
    assert "batch_usage_differs" in capsys.readouterr().out
