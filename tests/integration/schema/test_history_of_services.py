"""As docs/enqueue.md promises: a service reads the history of the jobs that it may read, and of no others."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.paths import ROOT

PAGE = (Path(ROOT) / "docs" / "enqueue.md").read_text()
WATCH = re.findall(r"`(SELECT \* FROM runtime\.[^`]*)`", PAGE)


@pytest.fixture
def jobs(psql):
    """A scoring job of Ada and one of Bob, enqueued as services do it."""
    made = {}
    for owner in (uuid4(), uuid4()):
        psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES (%s, %s)", [str(owner), owner])
        with psql.transaction():
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(owner)])
            row = psql.execute("SELECT scoring.enqueue_score(id, 'Judge.') AS id FROM scoring.profiles").fetchone()
        made[owner] = row["id"]
    return made


@pytest.mark.parametrize("statement", WATCH)
def test_a_service_watches_its_own_jobs_with_the_pages_own_statements(psql, jobs, statement):
    """The statements are those of the page, run by a member of the service's role."""
    ada, bob = jobs

    def seen(by, job):
        with psql.transaction():
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(by)])
            return psql.execute(statement.replace("'…'", "%s").encode(), [job]).fetchall()

    assert len(seen(ada, jobs[ada])) == 1
    assert seen(ada, jobs[bob]) == []
    assert len(seen(bob, jobs[bob])) == 1


def test_the_page_shows_how_to_watch_a_job_and_its_history():
    """It has two statements: the job and its history."""
    assert [sql.split()[3] for sql in WATCH] == ["runtime.jobs", "runtime.transitions"]


def test_a_service_sees_every_step_of_its_job(psql, jobs):
    """From the enqueue to the cancel, with the actor of each."""
    ada, _ = jobs
    with psql.transaction():
        psql.execute("SET LOCAL ROLE gristmill_service")
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(ada)])
        psql.execute("SELECT runtime.cancel(%s, 'no longer needed')", [jobs[ada]])
        rows = psql.execute(
            "SELECT change_action, change_reason FROM runtime.transitions WHERE job_id = %s ORDER BY version_to",
            [jobs[ada]],
        ).fetchall()

    assert [row["change_action"] for row in rows] == ["enqueue", "cancel"]
    assert rows[-1]["change_reason"] == "no longer needed"
