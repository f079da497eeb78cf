"""An operator gives an assessment without an owner to a user: once, with its history, and audited."""

import asyncio
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import CheckViolation
from sqlalchemy import text

from tests.support.command_line import as_json
from workers.assessment.store import states
from workers.assessment.store.history import audit_trail
from workers.assessment.store.metrics import list_measurements
from workers.assessment.store.refusals import InvalidChange, UnknownAssessment, VersionConflict, WrongState
from workers.runtime.actor import Actor
from workers.runtime.refusals import Forbidden, Kind

ADA, BOB = UUID(int=0xADA), UUID(int=0xB0B)
WHO = Actor(changed_by="operator:eve", change_reason="ticket 7")


async def made(database, *moves: str, owner: UUID | None = None) -> None:
    """Create assessment ``a-1`` and move it through these states."""
    async with database.session() as session:
        await states.create(session, "a-1", {"x": 1}, actor=Actor(user_id=owner))
        for version, state in enumerate(moves, start=1):
            await states.update(session, "a-1", state, version=version, actor=Actor(user_id=owner))


async def give(database, to: UUID = ADA) -> int | None:
    """Give it in a transaction of its own."""
    async with database.session() as session:
        return await states.give(session, "a-1", to=to, actor=WHO)


@pytest.mark.parametrize(
    ("moves", "version"),
    [((), 2), (("processing", "completed"), 4), (("cancelled",), 3)],
    ids=["waits", "done", "cancelled"],
)
async def test_a_gift_moves_the_assessment_its_history_and_its_measurements(database, moves, version):
    """This works in any state except processing."""
    await made(database, *moves)
    async with database.session() as session:
        measured = [one.metric_type for one in await list_measurements(session, "a-1")]

    assert await give(database) == version

    async with database.session() as session:
        found = await states.get(session, "a-1", owner=ADA)
        trail = await audit_trail(session, "a-1", owner=ADA)
        assert [one.metric_type for one in await list_measurements(session, "a-1", owner=ADA)] == measured
    assert (found.owner_id, found.version) == (ADA, version)
    assert found.status == (moves[-1] if moves else "pending")
    last = trail[-1]
    assert (last.change_action, last.changed_by, last.change_reason) == ("give", "operator:eve", "ticket 7")
    assert (last.old_state, last.new_state, last.version_to) == (found.status, found.status, version)


async def test_a_gift_of_what_waits_is_worked_on_under_its_new_version(database, psql):
    """A ticket of the old version is not valid; a new one is given at once."""
    await made(database)
    psql.execute("UPDATE assessments.assessment_states SET dispatched_at = now()")

    await give(database)

    assert psql.execute("SELECT dispatched_at FROM assessments.assessment_states").fetchone() == {"dispatched_at": None}


async def test_what_runs_is_not_given(database):
    """Otherwise its run would lose its fence."""
    await made(database, "processing")

    with pytest.raises(WrongState, match="assessment 'a-1' is processing: give it when it has ended") as refused:
        await give(database)

    assert refused.value.kind is Kind.CONFLICT


async def test_what_somebody_owns_is_not_given(database):
    """This includes giving it to the same user again."""
    await made(database, owner=ADA)

    for user in (ADA, BOB):
        with pytest.raises(UnknownAssessment, match="no assessment 'a-1' without an owner exists"):
            await give(database, user)


async def test_a_user_has_one_assessment_of_a_name(database):
    """The one without an owner stays without an owner."""
    await made(database, owner=ADA)
    async with database.session() as session:
        await states.create(session, "a-1", {"x": 2})

    with pytest.raises(InvalidChange, match="has an assessment 'a-1' already"):
        await give(database)

    async with database.session() as session:
        assert (await states.get(session, "a-1")).owner_id is None


async def test_of_two_gifts_at_once_one_is_made(database):
    """The other call finds no assessment without an owner."""
    await made(database)

    outcomes = await asyncio.gather(give(database, ADA), give(database, BOB), return_exceptions=True)

    assert sorted(type(one).__name__ for one in outcomes) == ["UnknownAssessment", "int"]
    async with database.session() as session:
        [found] = await states.list_newest(session)
    assert (found.owner_id, found.version) == ((ADA, BOB)[[*map(type, outcomes)].index(int)], 2)


async def test_a_gift_and_a_stale_change_do_not_both_count(database):
    """A change with the old version gets a conflict with the new one."""
    await made(database)
    await give(database)

    async with database.session() as session:
        with pytest.raises(VersionConflict, match="has version 2, expected version 1"):
            await states.update(session, "a-1", "processing", version=1, actor=Actor(user_id=ADA))


async def test_the_history_of_one_that_is_gone_is_given_alone(database, psql):
    """The result is None, because no version exists."""
    await made(database, "processing", "completed")
    psql.execute("DELETE FROM assessments.assessment_states")

    assert await give(database) is None

    async with database.session() as session:
        assert len(await audit_trail(session, "a-1", owner=ADA)) == 3


@pytest.mark.parametrize(
    ("owner", "change"),
    [
        (ADA, f"owner_id = '{BOB}', version = version + 1"),
        (ADA, "owner_id = NULL, version = version + 1"),
        (None, f"owner_id = '{BOB}'"),
        (None, f"owner_id = '{BOB}', version = version + 1, state = 'cancelled', progress = 100, completed_at = now()"),
        (None, f"owner_id = '{BOB}', version = version + 1, created_at = created_at - interval '1 day'"),
    ],
    ids=["to another", "to nobody", "without a version", "with another state", "with another time"],
)
async def test_the_guard_lets_an_owner_change_in_no_other_way(database, psql, owner, change):
    """This includes the owner of the tables."""
    await made(database, owner=owner)

    with pytest.raises(CheckViolation):
        psql.execute(f"UPDATE assessments.assessment_states SET {change}")


async def test_a_service_gives_nothing(database, database_url, psql):
    """A service may neither call the function nor write the owner."""
    await made(database)

    with psycopg.connect(database_url, autocommit=True) as service:
        service.execute("SET ROLE gristmill_service")
        service.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(ADA)])
        for statement in (
            "SELECT assessments.give_assessment('a-1', gen_random_uuid())",
            "UPDATE assessments.assessment_states SET owner_id = gen_random_uuid(), version = version + 1",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)


async def test_a_worker_may_not_give(database):
    """A worker sees all rows, but only operators may call the function."""
    await made(database)

    async def as_worker() -> None:
        async with database.session() as session:
            await session.execute(text("SET LOCAL ROLE gristmill_worker"))
            await states.give(session, "a-1", to=ADA)

    with pytest.raises(Forbidden, match="Postgres refused: permission denied for function give_assessment"):
        await as_worker()


def test_an_operator_gives_on_the_command_line(gristmill, psql):
    """The command prints one line, and the list shows the new owner."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")

    code, output, _ = gristmill("assessments", "give", "a-1", "--owner", str(ADA), "--reason", "ticket 7")
    again = gristmill("assessments", "give", "a-1", "--owner", str(BOB))

    assert (code, output.strip()) == (0, f"a-1 belongs to {ADA}, version 2")
    assert (again[0], again[2]) == (1, "gristmill: no assessment 'a-1' without an owner exists")
    [listed] = as_json(gristmill, "assessments", "list", "--owner", str(ADA))
    assert listed["owner_id"] == str(ADA)
    trail = as_json(gristmill, "assessments", "audit", "a-1")
    assert (trail[-1]["change_action"], trail[-1]["change_reason"]) == ("give", "ticket 7")
