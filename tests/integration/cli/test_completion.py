"""Completion in bash: with the script that the program prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.command_line import Gristmill

Psql = psycopg.Connection[dict[str, Any]]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")

PROGRAM = Path(sys.prefix) / "bin" / "gristmill"
COMPLETE = """
    source <("$0" --show-completion)
    COMP_WORDS=("$0" "$@"); COMP_CWORD=$#
    _gristmill_completion "$0"
    printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words: str) -> list[str]:
    """Return what bash offers for the last of ``words``."""
    done = subprocess.run(
        ["bash", "-c", COMPLETE, str(PROGRAM), *words], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_options_and_stages_are_completed() -> None:
    """It works for a program that is called by its path."""
    assert complete("mi") == ["migrate"]
    assert {"list", "show", "retry"} <= set(complete("jobs", ""))
    assert "--dry-run" in complete("jobs", "retry", "--dr")
    assert complete("enqueue", "scoring.") == ["scoring.score"]
    assert complete("jobs", "list", "--stage", "ingest") == ["ingestion.ingest"]


def test_ids_of_jobs_are_completed_from_the_system_that_runs(gristmill: Gristmill, psql: Psql, monkeypatch) -> None:
    """The newest jobs are offered. Without a system there are none, and no error disturbs the typing."""
    [profile] = psql.execute("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id").fetchall()
    [row] = psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.') AS id", [profile["id"]]).fetchall()

    assert complete("jobs", "show", str(row["id"])[:20]) == [str(row["id"])]
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:1/d")
    assert complete("jobs", "show", "") == []
