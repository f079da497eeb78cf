"""Admission of a process: together, in order, through lost answers and absences, and nothing left behind."""

import asyncio
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from gristmill_testing.waiting import until
from tests.support.admission import PriceList, call, usage
from workers.llm.admission.capacity import Path
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.statements import Question, admit
from workers.llm.calls import NotAdmittedError

CENT: dict[str, Any] = {"tokens": 2_000, "output": 4_000}


async def test_calls_of_one_moment_are_one_statement(rows, admission):
    """And so are their ends; each call has a row of its own all the same."""
    calls = [call() for _ in range(100)]

    await asyncio.gather(*(admission.reserve(one) for one in calls))
    await asyncio.gather(*(admission.settle(one, usage()) for one in calls))

    assert rows.states() == {"settled": 100}
    [row] = rows.ask("SELECT count(DISTINCT created_at)::int AS n, count(DISTINCT settled_at) FROM llm.calls")
    assert row["n"] == 1
    assert rows.ask("SELECT turn FROM llm.askers") == [{"turn": 1}]


async def test_who_asks_first_is_admitted_first(rows, admission):
    """Within one statement and over many."""
    rows.limit("requests", 10)
    calls = [call() for _ in range(30)]

    found = await asyncio.gather(*(admission.reserve(one) for one in calls), return_exceptions=True)

    assert [one is None for one in found] == [True] * 10 + [False] * 20


async def test_a_refusal_says_what_and_until_when(rows, admission):
    """C24: the limit by its name, how much of it is used, and for how long."""
    rows.limit("requests", 2, 60, provider="p", model="m")
    await admission.reserve_many([call(), call()])

    with pytest.raises(NotAdmittedError) as caught:
        await admission.reserve(call())

    assert str(caught.value) == "requests per minute of model m of provider p: 2 of 2 used"
    assert caught.value.limit == "requests per minute of model m of provider p"
    assert timedelta(0) < caught.value.delay <= timedelta(seconds=62)
    assert (caught.value.is_budget, caught.value.gives_back) == (False, False)


async def test_a_provider_that_refuses_is_left_alone_by_all(rows, admission, start):
    """C11: what one process hears, the next statement of every other knows; a longer wait is not shortened."""
    other = await start()
    await admission.cool_down("p", "m", delay=timedelta(minutes=2), reason="429")
    await admission.cool_down("p", "m", delay=timedelta(seconds=1), reason="429 again")

    with pytest.raises(NotAdmittedError, match="model m of provider p has refused calls \\(429\\)") as caught:
        await other.reserve(call())

    assert timedelta(seconds=110) < caught.value.delay <= timedelta(minutes=2)
    await other.reserve(call(model="n"))
    await other.cool_down("p", "", delay=timedelta(minutes=1), reason="quota")
    with pytest.raises(NotAdmittedError, match="provider p has refused calls \\(quota\\)"):
        await admission.reserve(call(model="n"))


async def test_processes_share_what_is_spent(rows, start):
    """C11: nobody reads a copy of his own: two processes have one limit and one budget together."""
    rows.limit("requests", 10)
    processes = [await start() for _ in range(2)]

    found = await asyncio.gather(
        *(process.reserve(call()) for _ in range(10) for process in processes), return_exceptions=True
    )

    assert found.count(None) == 10


@pytest.mark.parametrize("under", ["limit", "budget", "each owner's limit"])
async def test_two_questions_at_once_are_answered_one_after_the_other(rows, database, under):
    """C1, C11: the second one waits for the first one's commit, sees what it reserved, and is later by the clock."""
    match under:
        case "limit":
            rows.limit("requests", 1)
        case "budget":
            rows.budget(tokens=10)
        case _:
            rows.limit("requests", 1, per_owner=True)

    async def ask(conn):
        answer = await admit(conn, [Question(call(), None)], worker=None, asker=uuid.uuid4(), turn=1, again=False)
        return bool(answer.refused), answer.at

    waits = "SELECT 1 AS one FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    async with database.kernel() as one, database.kernel() as two:
        async with one.transaction():
            first, _ = await ask(one)
            asking = asyncio.create_task(ask(two))
            await until(lambda: rows.ask(waits, two.info.backend_pid))
            before_commit = rows.ask("SELECT clock_timestamp() AS at")[0]["at"]
        second, at = await asking

    assert (first, second) == (False, True)
    assert at > before_commit


async def test_a_cancelled_caller_leaves_no_reservation(rows, admission):
    """Whether it left before the question, during it or with the answer in its hands."""
    limit = rows.limit("requests", 100)
    for pause in (0, 0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008):
        asking = asyncio.create_task(admission.reserve(call()))
        await asyncio.sleep(pause)
        asking.cancel()
        await asyncio.wait({asking})
        if not asking.cancelled():  # it was faster
            rows.ask("DELETE FROM llm.calls")
            rows.ask("UPDATE llm.window_counts SET amount = 0")

    await until(lambda: rows.states() == {})
    assert rows.used(limit) == 0


async def test_the_end_of_a_cancelled_caller_is_recorded(rows, admission):
    """C9: what a call used is on its way to the ledger, whoever waits for it."""
    one = call()
    await admission.reserve(one)

    ending = asyncio.create_task(admission.settle(one, usage()))
    await asyncio.sleep(0)
    ending.cancel()

    await until(lambda: rows.states() == {"settled": 1})


async def test_a_lost_answer_is_no_second_reservation(rows, admission):
    """C6: the question is put again, and what the first one had reserved is found."""
    limit = rows.limit("requests", 100)
    rows.budget(usd=1)
    losing = Losing(admission, times=3)

    await asyncio.gather(*(losing.admission.reserve(call(**CENT)) for _ in range(10)))

    assert losing.lost == 3
    assert rows.states() == {"reserved": 10}
    assert rows.used(limit) == 10
    assert rows.totals()["b"]["reserved_usd"] == Decimal("0.1")
    assert rows.differences() == []


async def test_a_lost_answer_to_an_end_is_no_second_end(rows, admission):
    """C7: the same end is said again, and changes nothing."""
    limit = rows.limit("tokens", 10**6)
    rows.budget(usd=1)
    calls = [call(**CENT) for _ in range(10)]
    await admission.reserve_many(calls)
    losing = Losing(admission, times=3)

    await asyncio.gather(*(losing.admission.settle(one, usage(1_000, 0)) for one in calls))

    assert losing.lost == 3
    assert rows.states() == {"settled": 10}
    assert rows.used(limit) == 10_000
    assert rows.totals()["b"]["spent_usd"] == Decimal("0.01")


async def test_a_question_that_arrives_late_changes_nothing(rows, psql):
    """C6: its repetition was answered; whatever kept it on its way, it is void."""
    asker = uuid.uuid4()
    psql.execute("SELECT llm.admit('[]', '[]', NULL, %s, 2)", [asker])

    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has asked again since turn 1"):
        psql.execute("SELECT llm.admit('[]', '[]', NULL, %s, 1)", [asker])


async def test_one_bad_call_fails_alone(rows, admission):
    """What no row can hold does not keep its neighbours back."""
    bad = call(model="x" * 300)

    found = await asyncio.gather(*(admission.reserve(one) for one in (call(), bad, call())), return_exceptions=True)

    assert [type(one).__name__ for one in found] == ["NoneType", "StringDataRightTruncation", "NoneType"]


async def test_an_end_that_no_row_can_hold_is_recorded_without_what_is_odd(rows, admission):
    """C9: what it used counts, whatever the provider says beside."""
    odd, plain = call(), call()
    await admission.reserve_many([odd, plain])

    await asyncio.gather(
        admission.settle(odd, usage(5, 5, raw={"x": "y\x00", "long": "z" * 10**6})),
        admission.settle(plain, usage(5, 5)),
    )

    assert rows.ask("SELECT count(*)::int AS n FROM llm.calls WHERE input_tokens = 5 AND state = 'settled'") == [
        {"n": 2}
    ]


async def test_closing_records_what_has_ended_and_orphans_the_rest(rows, database):
    """C6: a process that ends in order leaves no reservation for anybody to find, but those of batches."""
    admission = PostgresAdmission(database, None, PriceList())
    ended, under_way, batched = call(), call(), call(lane="batch")
    await admission.reserve_many([ended, under_way, batched])
    ending = asyncio.create_task(admission.settle(ended, usage()))
    await asyncio.sleep(0)

    await admission.aclose()

    await ending
    assert rows.states() == {"settled": 1, "orphaned": 1, "reserved": 1}
    assert rows.ask("SELECT lane FROM llm.calls WHERE state = 'reserved'") == [{"lane": "batch"}]


async def test_without_postgres_nothing_is_admitted(rows, admission):
    """C10: who cannot ask does not call; it waits, and goes on once Postgres is back."""
    away = Away(admission)
    asking = asyncio.create_task(admission.reserve(call()))
    await until(lambda: away.asked >= 2)
    assert not asking.done()
    assert rows.states() == {}

    away.is_back = True
    await asking

    assert rows.states() == {"reserved": 1}


async def test_capacity_says_how_many_or_why_none(rows, admission):
    """For gates: of each path, without reserving anything."""
    rows.limit("requests", 5, provider="p")
    rows.limit("tokens", 1_000, provider="p", model="m")
    rows.limit("concurrency", 1, None, provider="slow")
    rows.budget(usd=Decimal("0.02"), scope="stage", scope_value="s")
    await admission.reserve_many([call("p"), call("slow"), call("free", stage="s", **CENT)])
    await admission.cool_down("cold", "", delay=timedelta(minutes=1), reason="429")
    rows.ask("UPDATE llm.budget_totals SET spent_usd = 1")

    found = await admission.capacity(
        [
            Path(provider="p", model="n"),
            Path(provider="p", model="m", input=200, output=100),
            Path(provider="p", model="m", input=2_000, output=0),
            Path(provider="slow", model="m"),
            Path(provider="cold", model="m"),
            Path(provider="free", model="m"),
            Path(provider="free", model="m", stage="s"),
        ]
    )

    assert [one.calls for one in found] == [4, 3, 0, 0, 0, None, 0]
    assert [one.refusal and one.refusal.limit for one in found] == [
        "requests per minute of provider p",
        "tokens per minute of model m of provider p",
        "tokens per minute of model m of provider p",
        "calls at once of provider slow",
        "cooldown of provider cold",
        None,
        "budget 'b'",
    ]
    assert rows.states() == {"reserved": 3}


class Losing:
    """Has statements of an admission commit and their answers be lost, as a cut connection does."""

    def __init__(self, admission: PostgresAdmission, *, times: int) -> None:
        self.admission = admission
        self.lost = 0
        self._times = times
        self._kernel = admission._database.kernel
        admission._database = self  # type: ignore[assignment]

    def kernel(self):
        return _Cut(self, self._kernel())

    def lose(self) -> bool:
        if self.lost >= self._times:
            return False
        self.lost += 1
        return True


class _Cut:
    def __init__(self, losing: Losing, connection) -> None:
        self._losing = losing
        self._connection = connection

    async def __aenter__(self):
        return await self._connection.__aenter__()

    async def __aexit__(self, *error):
        await self._connection.__aexit__(*error)
        if error[0] is None and self._losing.lose():
            raise psycopg.OperationalError("connection was cut after the statement")


class Away:
    """Has Postgres be away for an admission, until it is back."""

    def __init__(self, admission: PostgresAdmission) -> None:
        self.is_back = False
        self.asked = 0
        self._kernel = admission._database.kernel
        admission._database = self  # type: ignore[assignment]

    def kernel(self):
        if not self.is_back:
            self.asked += 1
            raise psycopg.OperationalError("connection refused")
        return self._kernel()
