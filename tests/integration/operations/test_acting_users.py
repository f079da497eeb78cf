"""Use-cases act for the actor of the door while they run, and their refusals can be read by doors."""

import uuid
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from workers.analytics import analyses
from workers.analytics.ratings import RatingError, rate
from workers.ingestion.options import InvalidOption, ReadOptions
from workers.operations import projects, record_review, system_settings, windows
from workers.operations.keyring import Keyring
from workers.operations.refusals import NameTaken, OperationsError, UnknownRecord, UnknownWindow
from workers.runtime.actor import Actor, acting
from workers.runtime.refusals import Conflict, Forbidden, Kind, Refusal
from workers.vectorization.enqueue_embedding import embed_project
from workers.vectorization.similar import InvalidSearch, similar

ADA, BOB = UUID(int=0xADA), UUID(int=0xB0B)
AS_ADA = Actor(changed_by="gateway:ada", user_id=ADA, change_reason="asked to", ip_address="192.0.2.7")


@pytest.fixture
async def users(session):
    """Ada and Bob, both approved."""
    for user in (ADA, BOB):
        new = {"id": user, "email": f"{user}@example.test"}
        await session.execute(text("INSERT INTO auth.users (id, email) VALUES (:id, :email)"), new)
    await session.execute(text("UPDATE operations.profiles SET role = 'USER'"))


async def said(session) -> tuple[str, str]:
    """Return the user and the name that the transaction acts for."""
    names = ("user_id", "changed_by")
    found = [await session.scalar(text(f"SELECT current_setting('gristmill.{name}', true)")) for name in names]
    return found[0] or "", found[1] or ""


async def refused(refusal, call) -> Refusal:
    with pytest.raises(refusal) as told:
        await call
    assert isinstance(told.value, Refusal)
    return told.value


async def test_jobs_of_a_use_case_are_signed_by_its_actor(session):
    """Later jobs of the transaction are not."""
    project = await projects.get_or_create(session, "p")
    before = await said(session)

    ids = await embed_project(session, project.id, actor=AS_ADA)

    trail = await session.execute(
        text(
            "SELECT DISTINCT changed_by, change_reason, host(ip_address) FROM runtime.transitions"
            " WHERE job_id = ANY (:ids)"
        ),
        {"ids": ids},
    )
    assert [tuple(row) for row in trail] == [("gateway:ada", "asked to", "192.0.2.7")]
    assert await said(session) == before


async def test_after_a_refusal_nobody_acts_for_the_actor_any_more(session):
    """The door may continue the same transaction."""
    before = await said(session)

    with pytest.raises(UnknownWindow):
        await windows.remove(session, uuid.uuid4(), actor=AS_ADA)
    assert await said(session) == before
    with pytest.raises(UnknownRecord, match="do not exist"):
        await record_review.review(session, [uuid.uuid4()], reviewer="ada", is_category_correct=None, actor=AS_ADA)

    assert await said(session) == before


async def test_after_any_other_error_that_error_is_raised_and_not_a_later_one(session):
    """The original error is raised, not the error of the failed transaction."""
    with pytest.raises(ZeroDivisionError):
        async with acting(session, AS_ADA):
            raise ZeroDivisionError

    refusal = Refusal("no")

    async def breaks() -> None:
        async with acting(session, AS_ADA):
            with suppress(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))
            raise refusal

    assert await refused(Refusal, breaks()) is refusal


async def test_of_records_that_are_not_all_there_none_is_reviewed(session):
    """The refusal undoes the changes before it."""
    project = await projects.get_or_create(session, "p")
    insert = text(
        'INSERT INTO operations.data_records ("projectId", type, source, content)'
        " VALUES (:project, 'TASK', 's', 'c') RETURNING id"
    )
    record: UUID = (await session.execute(insert, {"project": project.id})).scalar_one()

    with pytest.raises(UnknownRecord, match="none was changed"):
        await record_review.review(session, [record, uuid.uuid4()], reviewer="ada", is_category_correct=None)

    assert not (await record_review.show(session, record)).record.has_been_reviewed


async def test_an_analysis_needs_guidelines(session):
    """The refusal is a conflict, with the command that sets guidelines."""
    project = await projects.get_or_create(session, "p")

    told = await refused(Conflict, analyses.start(session, project.id))
    assert str(told) == "project 'p' has no guidelines; set them with `gristmill projects guidelines 'p' FILE.pdf`"
    await projects.set_guidelines(session, project, b"%PDF-1.4", "rules.pdf")
    assert (await analyses.start(session, project.id, type_="TASK", actor=AS_ADA)).created


async def test_a_project_belongs_to_whom_the_actor_acts_for(session, users):
    """The database sets the owner."""
    project = await projects.get_or_create(session, "hers", actor=AS_ADA)
    window = await windows.create(session, {"start": "2030-01-01T00:00Z", "end": "2030-02-01T00:00Z"}, actor=AS_ADA)

    assert (await projects.view(session, str(project.id))).owner_id == ADA
    assert window.created_by == ADA
    assert (await projects.get_or_create(session, "hers", actor=AS_ADA)).id == project.id


@pytest.mark.parametrize("role", ["gristmill_worker", "gristmill_service"])
async def test_a_name_that_another_user_has_is_refused(session, users, role):
    """This holds if the door's role sees the other user's project, and if it does not."""
    await projects.get_or_create(session, "hers", actor=AS_ADA)
    await session.execute(text(f"SET LOCAL ROLE {role}"))

    told = await refused(NameTaken, projects.get_or_create(session, "hers", actor=Actor(user_id=BOB)))

    assert str(told) == "project name must not be used by another user, got 'hers'"
    assert (await projects.get_or_create(session, "his", actor=Actor(user_id=BOB))).name == "his"


async def test_what_the_database_does_not_allow_a_user_is_forbidden(database):
    """An example is creating a project before approval."""

    async def as_stranger() -> None:
        async with database.session() as session:
            await session.execute(text("SET LOCAL ROLE gristmill_service"))
            await projects.get_or_create(session, "theirs", actor=AS_ADA)

    told = await refused(Forbidden, as_stranger())

    assert str(told).startswith('Postgres refused: new row violates row-level security policy for table "projects"; ')
    assert "SET LOCAL gristmill.user_id" in str(told)


async def test_a_file_goes_into_a_project_that_is_deleted_again_where_nothing_came_of_it(database):
    """A project that existed before stays."""
    async with projects.for_use(database, "new") as new, database.session() as session:
        assert (await projects.find(session, "new")).id == new.id
    async with database.session() as session:
        assert await projects.list_projects(session) == []
        old = await projects.get_or_create(session, "old")
    for name in ("old", str(old.id)):
        async with projects.for_use(database, name) as found:
            assert found.id == old.id
    async with database.session() as session:
        assert [one.name for one in await projects.list_projects(session)] == ["old"]


async def test_where_one_value_is_to_blame_the_refusal_has_it_apart(session):
    """A form can mark the field: the refusal has field, rule and value."""
    project = await projects.get_or_create(session, "p")
    keyring = Keyring([])
    problems = [
        (await refused(error, call)).problem
        for error, call in (
            (OperationsError, projects.get_or_create(session, " x")),
            (OperationsError, projects.set_guidelines(session, project, b"PK", "a.docx")),
            (OperationsError, record_review.list_records(session, project_id=project.id, type_="tsk")),
            (OperationsError, system_settings.put(session, {"ai_provider": "me"}, keyring=keyring)),
            (OperationsError, windows.create(session, {"start": "soon", "end": "2030-01-01T00:00Z"})),
            (RatingError, rate(session, uuid.uuid4(), "ada", realism=8, quality=1)),
            (InvalidSearch, similar(session, to=uuid.uuid4(), limit=0)),
        )
    ]

    assert [problem and problem.field for problem in problems] == [
        "project name", "guidelines", "type", "ai_provider", "start", "realism", "limit",
    ]  # fmt: skip
    assert all(problem and problem.value for problem in problems)


def test_an_option_of_reading_a_file_is_refused_by_its_name():
    """This is the same at every door."""
    with pytest.raises(InvalidOption) as told:
        ReadOptions.of({"delimiter": "ab"})

    assert told.value.kind is Kind.INVALID
    assert told.value.problem is not None
    assert told.value.problem[:3] == (
        "delimiter",
        "must be one character, or comma, semicolon, tab, pipe or space",
        "'ab'",
    )
