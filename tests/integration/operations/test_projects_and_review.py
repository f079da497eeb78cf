"""The use-cases of projects and records."""

import asyncio
import os
import uuid

import pytest
from sqlalchemy import insert, text

from models.operations import DataRecord
from workers.operations import projects, record_review
from workers.operations.refusals import OperationsError, UnknownProject, UnknownRecord


async def put(session, project, *contents: str, **columns):
    rows = [{"project_id": project.id, "type": "TASK", "source": "t", "content": c, **columns} for c in contents]
    found = await session.scalars(insert(DataRecord).returning(DataRecord.id, sort_by_parameter_order=True), rows)
    return list(found)


async def test_a_project_is_found_by_name_and_by_id(session):
    """A project cannot be named like an id, because the id could be another project's."""
    made = await projects.get_or_create(session, "corpus")
    again = await projects.get_or_create(session, "corpus")
    by_id = await projects.get_or_create(session, str(made.id))

    assert again.id == by_id.id == made.id
    assert (await projects.find(session, "corpus")).id == made.id
    assert (await projects.find(session, str(made.id))).id == made.id
    with pytest.raises(UnknownProject):
        await projects.get_or_create(session, str(uuid.uuid4()))
    with pytest.raises(UnknownProject, match="project 'corpsu' does not exist; `gristmill projects list` shows them"):
        await projects.find(session, "corpsu")


@pytest.mark.parametrize("name", ["", "  ", "x" * 256, "a\x00b"])
async def test_a_wrong_name_is_refused(session, name):
    """It is refused before it is written."""
    with pytest.raises(OperationsError, match=r"project name must have 1 to 255 characters, without .*, got "):
        await projects.get_or_create(session, name)


async def test_two_who_make_one_project_at_once_get_the_same(database):
    """There is one row and no error."""

    async def make() -> uuid.UUID:
        async with database.session() as session:
            return (await projects.get_or_create(session, "shared")).id

    assert len(set(await asyncio.gather(*(make() for _ in range(8))))) == 1


async def test_guidelines_are_a_pdf_in_base64(session):
    """Other files are refused in one line."""
    project = await projects.get_or_create(session, "g")
    await projects.set_guidelines(session, project, b"%PDF-1.4 and so on", "rules.pdf")
    [view] = await projects.list_projects(session, name_or_id="g")

    assert (view.guidelines_file_name, view.guidelines_size) == ("rules.pdf", 18)  # of 24 characters
    with pytest.raises(OperationsError, match="guidelines must be a PDF, which begins with %PDF-, got 'x\\.docx' with"):
        await projects.set_guidelines(session, project, b"PK\x03\x04", "x.docx")


async def test_listing_projects_reads_no_guidelines(database, psql):
    """They can have 67 MB each, so their size is computed without reading them."""
    size = 3_000_001
    async with database.session() as session:
        project = await projects.get_or_create(session, "g")
        await projects.set_guidelines(session, project, b"%PDF-" + os.urandom(size - 5), "rules.pdf")
    toast = """SELECT heap_blks_hit + heap_blks_read AS n FROM pg_statio_all_tables WHERE relid =
                 (SELECT reltoastrelid FROM pg_class WHERE oid = 'operations.projects'::regclass)"""

    async with database.session() as session:
        await session.execute(text("SELECT pg_stat_force_next_flush()"))
    before = psql.execute(toast).fetchone()
    async with database.session() as session:
        [view] = await projects.list_projects(session)
        await session.execute(text("SELECT pg_stat_force_next_flush()"))

    assert psql.execute(toast).fetchone() == before
    assert size <= (view.guidelines_size or 0) <= size + 2


async def test_counts_show_the_progress_of_a_project(session):
    """The counts are tasks, feedback, embedded and reviewed."""
    project = await projects.get_or_create(session, "c")
    await put(session, project, "a", "b", embedding=[1.0], embedding_model="m")
    [third] = await put(session, project, "c", type="FEEDBACK")
    await record_review.review(session, [third], reviewer="ada", is_category_correct=None)

    [view] = await projects.list_projects(session, name_or_id="c")

    assert (view.tasks, view.feedback, view.embedded, view.reviewed) == (2, 1, 2, 1)


async def test_records_come_newest_first_page_by_page(session):
    """Filters apply; a page continues after the last id of the previous one."""
    project = await projects.get_or_create(session, "l")
    tasks = await put(session, project, "a", "b", "c", category="TOP_10")
    await put(session, project, "d", type="FEEDBACK")

    page = await record_review.list_records(session, project_id=project.id, type_="TASK", limit=2)
    rest = await record_review.list_records(session, project_id=project.id, type_="TASK", limit=2, after=page[-1].id)

    assert [one.id for one in (*page, *rest)] == tasks[::-1]
    assert len(await record_review.list_records(session, project_id=project.id, category="TOP_10")) == 3
    assert await record_review.list_records(session, project_id=project.id, reviewed=True) == []


async def test_a_review_says_who_and_whether_the_category_is_right(session):
    """A later review replaces it; a record without a category is refused."""
    project = await projects.get_or_create(session, "r")
    [top] = await put(session, project, "a", category="TOP_10")
    [none] = await put(session, project, "b")

    assert await record_review.review(session, [top], reviewer="ada", is_category_correct=False) == {top}
    assert await record_review.review(session, [top, none], reviewer="bob", is_category_correct=None) == {top, none}
    found = (await record_review.show(session, top)).record
    assert (found.has_been_reviewed, found.reviewed_by, found.is_category_correct) == (True, "bob", None)

    with pytest.raises(OperationsError, match="has no category that could be right or wrong"):
        await record_review.review(session, [top, none], reviewer="bob", is_category_correct=True)
    with pytest.raises(OperationsError, match=r"reviewer must have 1 to 255 characters, without .*, got ' '"):
        await record_review.review(session, [top], reviewer=" ", is_category_correct=None)


async def test_a_deleted_record_is_unknown(session):
    """A deleted record is unknown."""
    project = await projects.get_or_create(session, "d")
    [id_] = await put(session, project, "a")

    assert await record_review.remove(session, [id_, uuid.uuid4()]) == {id_}
    with pytest.raises(UnknownRecord, match="does not exist"):
        await record_review.show(session, id_)


@pytest.mark.parametrize(("said", "name"), [("task", "TASK"), ("Feedback", "FEEDBACK"), (None, None)])
def test_types_are_named_in_any_case(said, name):
    """Other names are refused."""
    assert record_review.as_type(said) == name


def test_an_unknown_type_or_category_is_refused():
    """The message lists the known names."""
    with pytest.raises(OperationsError, match="type must be one of task, feedback, got 'tsk'"):
        record_review.as_type("tsk")
    with pytest.raises(OperationsError, match="category must be one of top_10, bottom_10, got 'best'"):
        record_review.as_category("best")
    assert record_review.as_category("top 10") == "TOP_10"
