"""``gristmill jobs cancel`` with more jobs than a person would read."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from local.system import COMMAND

Psql = psycopg.Connection[dict[str, Any]]
MANY = 100_000
COUNTED = re.compile(r"([\d,]+) cancelled, 0 refused so far")
INSERT = """
    WITH ada AS (INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id)
    INSERT INTO scoring.scoring_jobs (profile_id, prompt) SELECT id, 'Judge.' FROM ada, generate_series(1, %s)"""


@pytest.fixture
def many(psql: Psql) -> int:
    """A hundred thousand jobs that wait."""
    psql.execute(INSERT.encode(), [MANY])
    psql.execute("ANALYZE scoring.scoring_jobs")
    return MANY


@pytest.fixture
def command(database_url: str, tmp_path: Path):
    """Start one command as a process, in a folder of its own."""

    def start(*arguments: str) -> "subprocess.Popen[str]":
        env = {**os.environ, "DATABASE_URL": database_url}
        return subprocess.Popen(
            [*COMMAND, "jobs", *arguments],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def waiting(psql: Psql) -> int:
    [row] = psql.execute("SELECT count(*) AS n FROM scoring.scoring_jobs WHERE status = 'pending'").fetchall()
    return int(row["n"])


def test_a_hundred_thousand_jobs_are_counted_and_not_listed(command, many: int, psql: Psql) -> None:
    """Progress goes to standard error. The result is one line. After Ctrl-C it has the exact count."""
    with command("cancel", "--stage", "scoring.score") as first:
        assert first.stderr is not None
        told = next(filter(None, map(COUNTED.search, first.stderr)), None)  # another remark may come before
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=60)
    left = waiting(psql)

    assert told
    assert first.returncode == 130
    assert said == f"interrupted: {many - left:,} cancelled so far\n"
    assert many > many - left >= int(told[1].replace(",", ""))

    with command("cancel", "--stage", "scoring.score", "--status", "pending") as second:
        said, progress = second.communicate(timeout=300)

    assert (second.returncode, said) == (0, f"{left:,} cancelled\n")
    assert COUNTED.search(progress)
    assert waiting(psql) == 0


def test_ids_are_printed_only_when_asked_for(command, psql: Psql) -> None:
    """One id a line, for the next command. JSON always has all ids, in order."""
    psql.execute(INSERT.encode(), [2_500])
    wanted = [str(row["id"]) for row in psql.execute("SELECT id FROM scoring.scoring_jobs ORDER BY id DESC").fetchall()]
    filters = ("cancel", "--stage", "scoring.score")

    dry, _ = command(*filters, "--dry-run", "--ids").communicate(timeout=60)
    as_json, _ = command(*filters, "--json").communicate(timeout=60)
    again, why = command(*filters, "--status", "cancelled").communicate(timeout=60)
    meant, nothing = command(*filters).communicate(timeout=60)

    assert dry.splitlines() == [*wanted, "2,500 would be cancelled"]
    assert json.loads(as_json) == {"dry_run": False, "cancelled": wanted, "refused": {}}
    assert again == "0 cancelled, 2,500 refused\n"
    assert meant == "0 cancelled\n"  # without a status, those that ended are not meant
    assert "is cancelled already" not in nothing
    assert why.splitlines()[-1].startswith("  2,500 jobs, for example ")
    assert why.splitlines()[-1].endswith(": is cancelled already")
