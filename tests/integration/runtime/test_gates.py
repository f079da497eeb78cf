"""The dispatcher with gates: what would be refused stays in Postgres, says why, and goes on when its gate opens."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from structlog.testing import capture_logs

from gristmill_testing.waiting import until
from tests.support.fakes.gates import FakeGates
from tests.support.kernel import PLAIN, passes
from workers.runtime.dispatch import gates as gates_module
from workers.runtime.dispatch.gates import Gate
from workers.runtime.handler.outcomes import Retry, Snooze
from workers.runtime.operate.why import explain
from workers.runtime.store.gates import read_gates
from workers.runtime.store.read import get_job
from workers.runtime.store.stages import list_stages
from workers.runtime.store.waits import wake_all_snoozed, wake_snoozed

KEYED, FIRST = "proving.keyed", "proving.first"
LIMIT = "requests per minute of provider p"
LATER = datetime(2999, 1, 1, tzinfo=UTC)


def shut(stage: str = FIRST, key: str | None = "m", **more) -> Gate:
    return Gate(stage, key, 0, LATER, f"{LIMIT}: 30 of 30 used", (LIMIT,), **more)


async def looks(gates: FakeGates, count: int = 3) -> None:
    """Return after the leader has looked at the gates so many times more."""
    seen = len(gates.asked)
    await until(lambda: len(gates.asked) >= seen + count)


async def test_jobs_behind_a_closed_gate_stay_and_others_pass(jobs, start_dispatcher):
    """Other values of the gate column, other stages and stages without model calls go on."""
    await jobs.worker()
    gates = FakeGates(shut())
    held = await jobs.ready(FIRST, 5, key="m", priority=1)
    free = [*await jobs.ready(FIRST, 2, key="other"), *await jobs.ready(PLAIN, 2), *await jobs.ready(KEYED, 1)]

    road = await start_dispatcher(gates=gates)
    await until(lambda: sum(len(batch) for _, batch in road.batches) >= len(free))
    await looks(gates)

    assert {job.id for _, batch in road.batches for job in batch} == set(free)
    asked = {one.stage.name: one.keys for one in gates.asked[-1]}
    assert {"m"} <= set(asked[FIRST]) <= {"m", "other"}  # a value that has just gone is remembered
    assert PLAIN not in asked
    assert await jobs.count(FIRST, key="m", status="pending") == len(held)


async def test_a_gate_that_opens_lets_its_jobs_out(jobs, start_dispatcher):
    """At the next look, without anybody's help."""
    await jobs.worker()
    gates = FakeGates(shut())
    held = await jobs.ready(FIRST, 5, key="m")
    road = await start_dispatcher(gates=gates)
    await looks(gates)

    gates.gates = []

    await until(lambda: {job.id for job in road.of(FIRST)} == set(held))


async def test_no_more_go_out_than_a_gate_has_free(jobs, start_dispatcher):
    """However many passes run: those that nobody has claimed yet will use what is free."""
    await jobs.worker()
    gates = FakeGates(Gate(FIRST, "m", 3, None, LIMIT), Gate(KEYED, None, 2, None, LIMIT))
    await jobs.ready(FIRST, 20, key="m")
    for n in range(20):
        await jobs.ready(KEYED, 1, key=str(n))

    road = await start_dispatcher(gates=gates, redispatch_seconds=60)
    await until(lambda: len(road.of(FIRST)) >= 3 and len(road.of(KEYED)) >= 2)
    await looks(gates, 4)

    assert Counter(name for name, batch in road.batches for _ in batch) == {FIRST: 3, KEYED: 2}


async def test_a_closed_stage_without_a_gate_column_is_closed_for_all(jobs, start_dispatcher, registry):
    """A gate without a key is about all jobs of the stage."""
    await jobs.worker()
    gates = FakeGates(shut(key=None))
    await jobs.ready(FIRST, 5, key="a")

    road = await start_dispatcher(gates=gates)
    await looks(gates)

    assert road.of(FIRST) == []


async def test_without_an_answer_nothing_is_called_beyond_a_limit(jobs, start_dispatcher, monkeypatch):
    """The last answer holds for a while; then stages that call models are closed, and it is told. Others go on."""
    monkeypatch.setattr(gates_module, "ANSWER_HOLDS_SECONDS", 0.6)
    await jobs.worker()
    gates = FakeGates()
    first = await jobs.ready(FIRST, 1)
    with capture_logs() as logs:
        road = await start_dispatcher(gates=gates, redispatch_seconds=60)
        await until(lambda: road.of(FIRST))
        gates.broken = True

        async def is_told() -> bool:
            rows = await jobs.sql("SELECT reason FROM runtime.gates WHERE stage = %s AND free = 0", FIRST)
            return [row["reason"] for row in rows] == [gates_module.UNKNOWN]

        await until(is_told)
        [later] = await jobs.ready(FIRST, 1)
        [plain] = await jobs.ready(PLAIN, 1)
        await until(lambda: road.of(PLAIN))
        await looks(gates)

        assert [job.id for job in road.of(FIRST)] == first
        assert [job.id for job in road.of(PLAIN)] == [plain]
        async with jobs.database.kernel() as conn:
            job = await get_job(conn, later)
        assert job is not None
        assert job.wait_reason == "held back: limits of model calls cannot be read"
        assert [one["event"] for one in logs].count("gates_not_read") == 1

        gates.broken = False
        await until(lambda: later in {job.id for job in road.of(FIRST)})


async def test_a_look_that_never_answers_does_not_stop_the_leader(jobs, start_dispatcher):
    """Other stages are dispatched meanwhile, and the leader keeps its lead."""
    await jobs.worker()
    gates = FakeGates()
    gates.answers.clear()
    road = await start_dispatcher(gates=gates)
    await until(lambda: gates.asked)

    [plain] = await jobs.ready(PLAIN, 1)
    held = await jobs.ready(FIRST, 1)
    await until(lambda: road.of(PLAIN))
    await passes(road)

    assert road.of(FIRST) == []
    assert [job.id for job in road.of(PLAIN)] == [plain]
    gates.answers.set()
    await until(lambda: [job.id for job in road.of(FIRST)] == held)


async def test_a_held_job_says_which_limit_its_state_and_until_when(jobs, start_dispatcher):
    """In the view, in `jobs why` and in the list of stages; an open gate says what is used."""
    await jobs.worker()
    gates = FakeGates(shut(), Gate(FIRST, "busy", 1, None, f"{LIMIT}: 29 of 30 used"))
    [held] = await jobs.ready(FIRST, 1, key="m")
    [free] = await jobs.ready(FIRST, 1, key="nothing keeps it")
    await start_dispatcher(gates=gates, road=None)

    async def told() -> bool:
        return len(await jobs.sql("SELECT 1 FROM runtime.gates")) == 2

    await until(told)
    busy = await jobs.ready(FIRST, 3, key="busy")

    async with jobs.database.kernel() as conn:
        job, other = await get_job(conn, held), await get_job(conn, busy[-1])
        assert job is not None
        assert other is not None
        why = await explain(conn, job)
        [stage] = [one for one in await list_stages(conn) if one.stage == FIRST]
    assert job.wait_reason == f"held back: {LIMIT}: 30 of 30 used, until 2999-01-01 00:00:00 UTC"
    assert other.wait_reason == f"limited: {LIMIT}: 29 of 30 used"
    assert "gristmill llm limits" in (why.remedy or "")
    assert [(gate.key, gate.free) for gate in stage.gates] == [("busy", 1), ("m", 0)]
    assert free != held


async def test_what_is_told_ends_with_its_gate_and_with_its_leader(jobs, start_dispatcher):
    """The next leader, with or without gates, tells only what it knows itself."""
    await jobs.sql("INSERT INTO runtime.gates (stage, key, free, reason) VALUES ('gone', 'k', 0, 'of an old leader')")
    await start_dispatcher()

    async def gone() -> bool:
        async with jobs.database.kernel() as conn:
            return await read_gates(conn) == []

    await until(gone)


async def test_jobs_that_were_snoozed_for_a_limit_go_on_when_it_ends(jobs, start_dispatcher):
    """Only those: who backs off after a failure, or sleeps for something else, sleeps on."""
    await jobs.worker()
    snoozed = await jobs.running(FIRST, 1, key="m")
    other, failed = await jobs.running(FIRST, 2, key="m")
    await jobs.settle(snoozed[0], Snooze(timedelta(hours=1), f"{LIMIT}: 30 of 30 used"), FIRST)
    await jobs.settle(other, Snooze(timedelta(hours=1), "told to snooze"), FIRST)
    await jobs.settle(failed, Retry(f"{LIMIT} is what it says"), FIRST)
    await jobs.sql("UPDATE proving.two_step_jobs SET due_at = now() + interval '1 hour' WHERE id = %s", failed.id)
    gates = FakeGates(shut())
    road = await start_dispatcher(gates=gates, redispatch_seconds=60)
    await looks(gates)

    gates.gates = []

    await until(lambda: road.of(FIRST))
    await passes(road)
    assert [job.id for job in road.of(FIRST)] == [snoozed[0].id]


async def test_snoozed_jobs_are_woken_in_slices(jobs, registry):
    """Each slice goes on where the last one ended, also past jobs that wait for something else."""
    model = registry[PLAIN].model
    await jobs.unguarded(
        "INSERT INTO proving.plain_jobs (status, due_at, change_action, change_reason) "
        "SELECT 'pending', now() + interval '1 hour' + n / 7 * interval '1 ms', 'snooze', "
        "CASE WHEN mod(n, 3) = 0 THEN 'provider PX1 is away' ELSE 'Provider P_1 is away since noon' END "
        "FROM generate_series(1, 3000) AS n"
    )
    woken, after, slices = 0, None, 0
    async with jobs.database.kernel() as conn:
        while slices == 0 or after is not None:
            slice_ = await wake_snoozed(conn, model, stages=[PLAIN], causes=["provider p_1"], after=after, most=100)
            woken, after, slices = woken + slice_.jobs, slice_.after, slices + 1
        rest = await wake_all_snoozed(conn, [model])

    assert (woken, rest) == (2_000, 1_000)
    assert slices in {30, 31}
    assert await jobs.sql("SELECT id FROM proving.plain_jobs WHERE due_at IS NOT NULL") == []


async def test_wakes_of_a_term_that_ended_change_nothing(jobs, registry):
    """As all statements of the leader."""
    [job] = await jobs.running(FIRST, 1)
    await jobs.settle(job, Snooze(timedelta(hours=1), "provider p is away"), FIRST)

    async with jobs.database.kernel() as conn:
        woken = await wake_snoozed(conn, registry[FIRST].model, term=99)

    assert woken.jobs == 0
    assert (await jobs.row(job.id, FIRST))["due_at"] is not None
