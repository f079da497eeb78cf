"""No code of ours relies on an advisory lock: whoever may connect can hold one, whatever rights it has."""

import re

from tests.support.paths import ROOT

# The migrations name the session of whoever holds theirs without the right to migrate (migrations/env.py). The frozen
# SQL of older revisions is replaced by later ones.
MAY = {"migrations/env.py", "migrations/versions/0001_runtime.py"}
ROOMS = ("cli", "config", "gateway", "local", "migrations", "models", "workers")


def test_no_code_of_ours_takes_an_advisory_lock():
    """A row that needs rights takes its place."""
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"pg_(try_)?advisory", path.read_text(encoding="utf-8"))
    }

    assert (
        found == MAY | {"migrations/versions/0001_runtime.py", "migrations/versions/0007_leader_and_roles.py"} & found
    )


def test_no_function_of_the_database_takes_an_advisory_lock(psql):
    """As the newest revision has them."""
    functions = psql.execute(
        "SELECT proname FROM pg_proc WHERE prosrc ~ 'pg_(try_)?advisory' AND prolang <> 12"
    ).fetchall()

    assert functions == []
