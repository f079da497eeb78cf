"""No code of ours relies on an advisory lock: every login that may connect can hold one, without any right."""

import re

from tests.support.paths import ROOT

# If a session without the right to migrate holds the lock of the migrations, migrations/env.py names it. Later
# revisions replace the frozen SQL of older ones.
KNOWN = {"migrations/env.py", "migrations/versions/0001_runtime.py"}
ROOMS = ("cli", "config", "gateway", "local", "migrations", "models", "workers")


def test_no_code_of_ours_takes_an_advisory_lock():
    """We lock a row instead, because that needs rights."""
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"pg_(try_)?advisory", path.read_text(encoding="utf-8"))
    }

    assert (
        found == KNOWN | {"migrations/versions/0001_runtime.py", "migrations/versions/0007_leader_and_roles.py"} & found
    )


def test_no_function_of_the_database_takes_an_advisory_lock(psql):
    """This is checked at the newest revision."""
    functions = psql.execute(
        "SELECT proname FROM pg_proc WHERE prosrc ~ 'pg_(try_)?advisory' AND prolang <> 12"
    ).fetchall()

    assert functions == []
