"""Lists of jobs: what a filter means, where a page ends, what a cursor is good for. No database."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.support.proving.models import KeyedJob, PlainJob, TwoStepJob, WaitingJob
from workers.runtime.cursors import WrongCursorError, make_cursor, read_cursor
from workers.runtime.measuring import BOUNDS, OTHER, Measurements
from workers.runtime.operate.lists import FILTERS, read_search
from workers.runtime.refusals import Refusal
from workers.runtime.store.lists import JobSearch, cut_page, first_id_at, page_sql, plan_walks
from workers.runtime.store.read import JobView
from workers.runtime.store.tables import job_table

TABLES = [job_table(model) for model in (PlainJob, KeyedJob, TwoStepJob, WaitingJob)]
OWNER = UUID(int=7)


def walks(search, tables=TABLES, **searchable):
    return plan_walks(tables, search, searchable=searchable)


def row(number, *, fits=True, nth=0):
    """Return a row of a page with the job of this number."""
    job = [UUID(int=number), *[None] * (len(JobView.__dataclass_fields__) - 1)]
    return (UUID(int=number), fits, nth, *(job if fits else [None] * len(job)))


def ids(found):
    return [job.id.int for job in found.jobs]


def test_a_page_has_a_next_one_only_if_there_are_more():
    """One row more than the limit tells."""
    assert cut_page([row(3), row(2)], limit=2, reads=9).goes_on_after is None

    more = cut_page([row(3), row(2), row(1)], limit=2, reads=9)

    assert (ids(more), more.goes_on_after) == ([3, 2], UUID(int=2))


def test_a_page_ends_where_a_walk_ends():
    """What other walks found after that row comes on the next page, because this walk may find jobs before them."""
    found = cut_page([row(9), row(5, fits=False, nth=4), row(3)], limit=9, reads=4)

    assert (ids(found), found.goes_on_after) == ([9], UUID(int=5))


def test_a_page_may_be_empty_and_go_on():
    """Nothing matched among the rows that were read."""
    found = cut_page([row(5, fits=False, nth=4)], limit=9, reads=4)

    assert (ids(found), found.goes_on_after) == ([], UUID(int=5))


def test_jobs_of_two_tables_with_one_id_stay_together():
    """The next page begins after their id."""
    found = cut_page([row(3), row(2), row(2), row(1)], limit=2, reads=9)

    assert (ids(found), found.goes_on_after) == ([3, 2, 2], UUID(int=2))


def test_a_cursor_is_good_for_its_list_only():
    """Not for other filters or callers, and not after a change of its text."""
    cursor = make_cursor(OWNER.bytes, of=["filter", 1])

    assert read_cursor(cursor, of=["filter", 1], size=16) == OWNER.bytes
    for text, of in ((cursor, ["filter", 2]), (cursor[:-2], ["filter", 1]), ("ä", ["filter", 1]), ("", ["filter", 1])):
        with pytest.raises(WrongCursorError, match="cursor must be `next` of a page with the same filters"):
            read_cursor(text, of=of, size=16)


def test_the_lowest_id_of_a_time_is_that_of_its_millisecond():
    """Ids of version 7 begin with it; times that no id has are the nearest."""
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert first_id_at(moment).int >> 80 == int(moment.timestamp() * 1000)
    assert first_id_at(datetime(1900, 1, 1, tzinfo=UTC)).int == 0


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"colour": "red"}, "colour is not a filter; filters are stage, state, wait, owner, key, error, from, to"),
        ({"wait": "soon"}, "wait must be one of ready, dispatched, backing_off, snoozed, later, decision, got 'soon'"),
        ({"owner": "me"}, "owner must be a UUID, got 'me'"),
        ({"error": "503"}, "error must be the fingerprint of an error: 32 hexadecimal digits, got '503'"),
        ({"from": "2026-01-31T12:00:00"}, "from must be a time with its zone"),
        ({"to": "9999-99-99"}, "to must be a time with its zone"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "from must be a time with its zone"),
        ({"state": "lost"}, "status must be one of waiting, running, completed"),
        ({"key": "a\0b"}, "key must have 1 to 255 characters and no NUL"),
        ({"stage": ""}, "stage must have 1 to 255 characters"),
        ({"profile_id": "x"}, "profile_id must be a UUID, got 'x'"),
    ],
)
def test_a_filter_that_is_none_is_refused_by_name(registry, given, problem):
    """The line names the filter, its rule and the value."""
    with pytest.raises(Refusal) as refused:
        read_search(given)

    assert str(refused.value).startswith(problem)


def test_every_filter_is_read(registry):
    """The members that a stage declares are filters too."""
    found = read_search(
        {
            "stage": "proving.plain",
            "state": "Failed",
            "wait": "later",
            "owner": str(OWNER),
            "key": "k",
            "error": "0" * 32,
            "from": "2026-01-31T12:00:00Z",
            "to": "2026-01-31T13:00:00+01:00",
            "profile_id": str(OWNER),
        }
    )

    assert found.states is not None
    assert ("proving.plain_jobs", "failed") in found.states
    assert found.since == found.until == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert found.members == {"profile_id": OWNER}
    assert len(FILTERS) == 8


def test_a_search_by_stage_looks_at_its_table_only():
    """In a table of one step every job is of the stage; in one of several, the states tell."""
    [one] = walks(JobSearch(stage="proving.plain"))
    assert (one.table.label, list(one.order), list(one.also)) == ("proving.plain_jobs", ['"id" DESC'], [])

    several = walks(JobSearch(stage="proving.second"))
    assert {walk.table.label for walk in several} == {"proving.two_step_jobs"}
    assert all("'proving.second'" in " ".join([*walk.along, *walk.also]) for walk in several)


def test_a_member_that_a_table_does_not_declare_finds_nothing_there():
    """Other tables have no such jobs."""
    found = walks(JobSearch(members={"key": "k"}), **{"proving.keyed_jobs": {"key"}})

    assert {walk.table.label for walk in found} == {"proving.keyed_jobs"}


@pytest.mark.parametrize(
    "search",
    [
        JobSearch(),
        JobSearch(stage="proving.second", states=frozenset({("proving.two_step_jobs", "failed")})),
        JobSearch(owner=OWNER, wait="backing_off"),
        JobSearch(key="k"),
        JobSearch(error="0" * 32, owner=OWNER),
        JobSearch(older_than=timedelta(days=1), error_text="no"),
    ],
)
def test_every_value_is_a_parameter(search):
    """No value of a filter is part of a statement."""
    sql = page_sql(walks(search))

    assert set(re.findall(r"%\((\w+)\)s", sql)) <= {
        "owner", "key", "error", "older_than", "error_text", "since", "before", "reads", "limit",
    }  # fmt: skip
    assert str(OWNER) not in sql


def test_measurements_are_taken_once_and_given_back():
    """A write that failed loses nothing."""
    measured = Measurements()
    measured.histogram("run_seconds", stage="a").observe(0.003)
    measured.histogram("run_seconds", stage="a").observe(-1.0)
    measured.counter("stale_writes", stage="a").add()

    taken = measured.take()

    assert [(one.name, one.labels, one.number, one.total) for one in taken] == [
        ("run_seconds", '{"stage": "a"}', 2, 0.003),
        ("stale_writes", '{"stage": "a"}', 1, 0.0),
    ]
    assert taken[0].buckets == (1, 0, 1, *[0] * (len(BOUNDS) - 2))
    assert measured.take() == []
    measured.give_back(taken)
    assert measured.take() == taken


def test_label_values_without_end_are_counted_as_one(monkeypatch):
    """A counter does not grow with what users write."""
    monkeypatch.setattr("workers.runtime.measuring.MAX_SERIES", 2)
    measured = Measurements()
    for number in range(5):
        measured.counter("calls", provider=f"p{number}").add()

    assert [(one.labels, one.number) for one in measured.take()] == [
        ('{"provider": "p0"}', 1),
        ('{"provider": "p1"}', 1),
        (f'{{"provider": "{OTHER}"}}', 3),
    ]
