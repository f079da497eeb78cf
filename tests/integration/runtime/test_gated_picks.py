"""Picks through gates and behind shares: what is kept back stays in Postgres, whoever waits for nothing passes."""

import random
import time
import uuid
from dataclasses import replace

import pytest

from tests.support.proving.models import LIMIT
from workers.runtime.dispatch.gates import Gate, GateKeeper
from workers.runtime.shares import Crowd
from workers.runtime.store.dispatch import KEYS_PER_PASS, Window
from workers.runtime.store.gates import Allowance, GateCursor, count_flight, pick_through_gates, ready_keys

KEYED, FIRST = "proving.keyed", "proving.first"
WIDE = Window(slots=1_000, at_most=512)
ACTS = ["complete", "result", "write", "stamp", "flaky"]
OWNER = "00000000-0000-0000-0000-000000000001"


async def enqueue(jobs, table: str, count: int, *, key: str = "''", owner: str | None = None, act: str = "complete"):
    """Enqueue many jobs with the ``key`` that this expression of ``n`` gives; return their ids."""
    rows = await jobs.sql(
        f"INSERT INTO proving.{table} (act, key, owner_id) SELECT %s, {key}, %s::uuid "
        f"FROM generate_series(1, {count}) AS n RETURNING id",
        act,
        owner,
    )
    return [row["id"] for row in rows]


async def picked(jobs, stage, allowance, *, window=WIDE, cursor=None):
    """Pick and return the jobs' ids."""
    async with jobs.database.kernel() as conn:
        done = await pick_through_gates(conn, stage, window, allowance, cursor=cursor)
    return [one.id for one in done.jobs]


@pytest.fixture
def first(registry):
    """A stage with a gate and no limit."""
    return registry[FIRST]


@pytest.fixture
def keyed(registry):
    """A stage with a gate and a limit."""
    return registry[KEYED]


async def test_a_closed_gate_keeps_its_jobs_and_lets_others_pass(jobs, first):
    """The held jobs are older and more urgent; they stay without a ticket."""
    await jobs.ready(FIRST, 50, key="shut", priority=1)
    others = await jobs.ready(FIRST, 3, key="open", priority=9)

    assert await picked(jobs, first, Allowance({"shut": 0})) == others
    out = await jobs.sql("SELECT DISTINCT key FROM proving.two_step_jobs WHERE dispatched_at IS NOT NULL")
    assert out == [{"key": "open"}]


async def test_a_gate_lets_out_what_it_has_free_in_order(jobs, first):
    """By priority, then age, as without gates."""
    old = await jobs.ready(FIRST, 2, key="few", priority=5)
    urgent = await jobs.ready(FIRST, 2, key="few", priority=1)
    other = await jobs.ready(FIRST, 1, key="open", priority=3)

    assert await picked(jobs, first, Allowance({"few": 3})) == [*urgent, *other, old[0]]


async def test_keys_without_a_gate_share_what_others_have_free(jobs, first):
    """Two such keys together do not exceed it."""
    for key in ("a", "b"):
        await jobs.ready(FIRST, 10, key=key)
    own = await jobs.ready(FIRST, 2, key="own", priority=10)

    found = await picked(jobs, first, Allowance({"own": 5}, others=4))

    assert len(found) == 6
    assert set(own) <= set(found)


async def test_a_gate_does_not_lift_the_limit_of_a_key(jobs, keyed):
    """One limited key has jobs behind two gates: together they get no more than the limit."""
    for act in ("complete", "write"):
        await jobs.ready(KEYED, 10, key="k", act=act)

    assert len(await picked(jobs, keyed, Allowance({"write": 100}))) == LIMIT
    assert await picked(jobs, keyed, Allowance({"write": 100})) == []


async def pick_all(jobs, stage, allowance):
    """Pick as the leader does, counting down what has gone out, until a pass finds nothing."""
    keeper = GateKeeper([stage.name])
    gates = [Gate(stage.name, key, free) for key, free in allowance.keys.items()]
    keeper.answer([*gates, Gate(stage.name, None, allowance.others)], {}, asked_at=time.monotonic())
    keys: list[str | None] = [None]
    while keys:
        async with jobs.database.kernel() as conn:
            keys = (await pick_through_gates(conn, stage, WIDE, keeper.allowance(stage.name) or Allowance())).keys
        keeper.took(stage.name, keys)


async def test_gates_and_limits_hold_for_every_mix_of_jobs(jobs, keyed):
    """Seeded mixes: no gate and no key gets more than it may; a few passes leave no job behind that may go."""
    drawn = random.Random(14)
    for _ in range(8):
        await jobs.sql("UPDATE proving.keyed_jobs SET dispatched_at = NULL")
        for _ in range(20):
            await jobs.ready(KEYED, drawn.randint(1, 4), key=f"k{drawn.randint(0, 9)}", act=drawn.choice(ACTS))
        allowance = Allowance({act: drawn.randint(0, 6) for act in ACTS[:3]}, others=drawn.randint(0, 9))

        await pick_all(jobs, keyed, allowance)

        out = await jobs.sql("SELECT act, key FROM proving.keyed_jobs WHERE dispatched_at IS NOT NULL")
        by_gate = {act: sum(row["act"] == act for row in out) for act in ACTS}
        by_key = {row["key"]: sum(one["key"] == row["key"] for one in out) for row in out}
        assert all(by_gate[act] <= free for act, free in allowance.keys.items())
        assert sum(by_gate[act] for act in ACTS[3:]) <= allowance.others
        assert max(by_key.values(), default=0) <= LIMIT
        left = await jobs.sql("SELECT act, key FROM proving.keyed_jobs WHERE dispatched_at IS NULL")
        others = allowance.others - sum(by_gate[act] for act in ACTS[3:])
        for row in left:
            room = allowance.keys[row["act"]] - by_gate[row["act"]] if row["act"] in allowance.keys else others
            assert room <= 0 or by_key.get(row["key"], 0) >= LIMIT


async def test_more_keys_than_one_pass_looks_at_all_get_their_turn(jobs, keyed):
    """Each gate goes on after its own last key."""
    count = KEYS_PER_PASS + 300
    await enqueue(jobs, "keyed_jobs", count, key="lpad(n::text, 5, '0')")
    await jobs.ready(KEYED, 1, key="zzz", act="write")
    seen: set[object] = set()
    cursor = GateCursor()
    for _ in range(6):
        async with jobs.database.kernel() as conn:
            done = await pick_through_gates(conn, keyed, Window(5_000, 200), Allowance({"shut": 0}), cursor=cursor)
        cursor = done.cursor
        seen |= {one.id for one in done.jobs}

    assert len(seen) == count + 1


async def test_many_gates_are_walked_in_turn(jobs, first):
    """A tenant that names a new model for each job delays nobody for long."""
    count = KEYS_PER_PASS + 40
    await enqueue(jobs, "two_step_jobs", count, key="lpad(n::text, 5, '0')")
    last = await jobs.ready(FIRST, 1, key="zzz", priority=1)

    async with jobs.database.kernel() as conn:
        one = await pick_through_gates(conn, first, Window(100, 10), Allowance({"00001": 0}))
        two = await pick_through_gates(conn, first, Window(100, 10), Allowance({"00001": 0}), cursor=one.cursor)

    assert last[0] in {job.id for job in two.jobs}


async def test_others_go_before_an_owner_that_holds_too_much(jobs, first):
    """All slots are held by one owner: its jobs get no ticket, the job of another owner gets one at once."""
    await enqueue(jobs, "two_step_jobs", 100, owner=OWNER)
    other = await enqueue(jobs, "two_step_jobs", 1, owner=str(uuid.uuid4()))
    crowded = Allowance(crowd=Crowd(owners=[OWNER]))

    found = await picked(jobs, first, crowded, window=Window(slots=0, at_most=512, floor=0, beside=4))

    assert found == other


async def test_who_holds_too_much_goes_on_while_nobody_else_waits(jobs, registry):
    """Shares take nothing from anybody as long as there is nobody to give it to."""
    plain = registry["proving.plain"]
    ids = await jobs.ready(count=100)

    crowded = Allowance(crowd=Crowd(owners=[""]))

    assert await picked(jobs, plain, crowded, window=Window(slots=5, at_most=512, beside=4)) == ids[:10]


async def test_a_stage_with_a_limit_and_no_gate_lets_others_go_first(jobs, registry):
    """The job of another owner has a key of its own; it gets a ticket, the others none."""
    keyed = replace(registry[KEYED], gate=None)
    await enqueue(jobs, "keyed_jobs", 90, key="mod(n, 9)::text", owner=OWNER)
    other = await enqueue(jobs, "keyed_jobs", 1, key="'x'", owner=str(uuid.uuid4()))
    crowded = Allowance(crowd=Crowd(owners=[OWNER]))

    found = await picked(jobs, keyed, crowded, window=Window(slots=0, at_most=512, floor=0, beside=2))

    assert found == other


async def test_ready_keys_and_flight_are_counted(jobs, first, keyed):
    """By owner and gate; a claimed job counts apart from one whose ticket waits."""
    await jobs.running(FIRST, 2, key="a")
    await jobs.dispatched(FIRST, 1, key="b")
    await jobs.ready(FIRST, 1, key="c")

    async with jobs.database.kernel() as conn:
        flight = await count_flight(conn, first)
        keys = await ready_keys(conn, first, most=10)

    assert sorted(tuple(group) for group in flight) == [("", "a", 0, 2), ("", "b", 1, 0)]
    assert keys == ["c"]
