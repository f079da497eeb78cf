"""`gristmill migrate --to REV` downwards: without --yes it loses no jobs and breaks no running process."""

import psycopg
import pytest

from migrations.upgrade import dropped_tables, move, position
from tests.support.command_line import as_json
from workers.runtime.store.verify import verify_history


@pytest.fixture
def own(empty_database_url, monkeypatch):
    """A migrated database for this test alone; the command line uses it."""
    url = empty_database_url.replace("+psycopg", "")
    move(url)
    monkeypatch.setenv("DATABASE_URL", url)
    with psycopg.connect(url, autocommit=True) as connection:
        yield url, connection


def assess(connection, name: str) -> None:
    connection.execute("SELECT assessments.create_assessment(%s, '{}', 5, 300)", [name])


def test_jobs_are_dropped_only_when_asked_for(gristmill, own):
    """The refusal has the number of jobs by table, and nothing changes."""
    url, connection = own
    assess(connection, "a")
    assess(connection, "b")
    head = position(url).current

    code, _, said = gristmill("migrate", "--to", "0002")

    assert code == 1
    assert "this migration drops 2 jobs of assessments.assessment_states (2 of them not ended)" in said
    assert "--yes" in said
    assert position(url).current == head
    assert connection.execute("SELECT count(*) FROM assessments.assessment_states").fetchone() == (2,)


async def test_dropped_jobs_leave_an_end_in_their_history(gristmill, own):
    """With --yes they are cancelled first, so that each job ends before it is dropped."""
    url, connection = own
    assess(connection, "a")

    code, _, said = gristmill("migrate", "--to", "0002", "--yes")
    assert code == 0, said
    assert as_json(gristmill, "migrate")["after"] == position(url).head

    async with await psycopg.AsyncConnection.connect(url) as reader:
        [check] = [one for one in await verify_history(reader) if one.gone]
    assert (check.stage, check.gone, check.lost, check.violations) == ("assessment.assess", 1, 0, 0)


def test_every_job_table_is_found_on_the_way_down(own):
    """It is found by its revision, also if the revision names it differently. Tables without jobs are not listed."""
    url, connection = own
    connection.execute("INSERT INTO scoring.profiles (name) VALUES ('a')")
    connection.execute("SELECT scoring.enqueue_score((SELECT id FROM scoring.profiles), 'a prompt')")
    assess(connection, "a")

    assert [one.name for one in dropped_tables(url, "0003")] == []
    assert [one.name for one in dropped_tables(url, "0002")] == ["assessments.assessment_states"]
    assert {one.name for one in dropped_tables(url, "base")} == {
        "assessments.assessment_states",
        "scoring.scoring_jobs",
    }
    assert dropped_tables(url, "head") == []


@pytest.mark.parametrize(
    ("alive", "name"),
    [
        (
            "INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds) VALUES (uuidv7(), 'w', '{a}', 1, 30)",
            "worker w",
        ),
        (
            "INSERT INTO runtime.dispatcher (id, term, leader, expires_at) VALUES (1, 1, 'd1', now() + interval '1 h')",
            "dispatcher d1",
        ),
    ],
)
def test_a_migration_down_is_refused_while_processes_run(gristmill, own, alive, name):
    """This holds for every revision. A migration up, or with --yes, is not refused."""
    url, connection = own
    connection.execute(alive)

    code, _, said = gristmill("migrate", "--to", "0012")

    assert code == 1
    assert f"{name} still run" in said
    assert position(url).current == position(url).head
    assert gristmill("migrate")[0] == 0
    assert gristmill("migrate", "--to", "0012", "--yes")[0] == 0
