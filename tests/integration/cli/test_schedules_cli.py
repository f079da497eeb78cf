"""``gristmill schedules``: additions are checked, refused rows are shown with their reasons, actions are performed."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.command_line import Gristmill, as_json
from tests.support.paths import ROOT

PLAIN = ("--stage", "proving.plain")


def schedules(gristmill: Gristmill) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in as_json(gristmill, "schedules", "list")}


FIVE = "cron must have five fields (minute hour day month weekday)"
NEW = ("x", "--cron", "* * * * *")
REFUSED = {
    f"{FIVE}, got '0 9 * * 1 *'": ("x", "--cron", "0 9 * * 1 *", *PLAIN),
    f"{FIVE}, got '@daily'; write '0 0 * * *'": ("x", "--cron", "@daily", *PLAIN),
    f"{FIVE} that make sense (Bad day-of-month), got '0 0 31 2 *'": ("x", "--cron", "0 0 31 2 *", *PLAIN),
    "timezone must be an IANA name such as Europe/Paris, got 'Mars'": (*NEW, "--timezone", "Mars", *PLAIN),
    "catch-up must be one of skip, one, all, got 'two'": (*NEW, "--catch-up", "two", *PLAIN),
    "payload: colour is not a field of this stage, got 1": (*NEW, *PLAIN, "--payload", '{"colour": 1}'),
    "payload is not JSON: '1e999' is not a JSON number": (*NEW, *PLAIN, "--payload", '{"seconds": 1e999}'),
    "stage 'proving.typo' is not registered; known stages: ": (*NEW, "--stage", "proving.typo"),
    "action must be one of prune, expire, expire_waits, partitions, forget_workers, orphan_calls, got 'tidy'": (
        *NEW,
        "--action",
        "tidy",
    ),
    "a schedule must have either a stage or an action": NEW,
    "name must not be blank, got ' '": (" ", "--cron", "* * * * *", *PLAIN),
    "name must not begin or end with a blank, got ' x'": (" x", "--cron", "* * * * *", *PLAIN),
    "name must not contain control characters, got 'x\\u200b'": ("x\u200b", "--cron", "* * * * *", *PLAIN),
    "name must not contain control characters, got 'x\\ny'": ("x\ny", "--cron", "* * * * *", *PLAIN),
    "name must have at most 100 characters, got 101": ("x" * 101, "--cron", "* * * * *", *PLAIN),
}


@pytest.mark.parametrize(("said", "arguments"), REFUSED.items())
def test_an_invalid_schedule_is_refused_in_one_line(gristmill, said, arguments):
    """Nothing is written, and the exit code is that of wrong usage."""
    code, _, line = gristmill("schedules", "add", *arguments)

    assert code == 2
    assert line.startswith(f"gristmill: {said}")
    assert schedules(gristmill) == {}


def test_names_are_found_in_whatever_form_they_were_typed(gristmill):
    """A keyboard may write é as two characters; the name has one."""
    assert gristmill("schedules", "add", "cafe\N{COMBINING ACUTE ACCENT}", "--cron", "0 9 * * 1", *PLAIN)[0] == 0

    assert list(schedules(gristmill)) == ["caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    assert gristmill("schedules", "remove", "cafe\N{COMBINING ACUTE ACCENT}")[0] == 0


def test_a_time_that_the_clock_skips_is_told_when_it_is_added_and_listed(gristmill):
    """In Berlin 02:30 does not exist on one night of the year, and occurs twice on another."""
    code, output, _ = gristmill(
        "schedules", "add", "nightly", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", *PLAIN
    )

    assert code == 0
    assert "02:30 does not exist in Europe/Berlin: it fires at 03:00" in output
    assert "02:30 comes twice in Europe/Berlin: it fires at the first" in output
    assert len(schedules(gristmill)["nightly"]["clock_changes"]) == 2
    assert "nightly: 20" in gristmill("schedules", "list")[1]


def test_a_refused_row_is_shown_as_refused_with_its_reason(gristmill, psql):
    """It was written in psql. It is not shown as enabled."""
    for name, cron, stage, payload in (
        ("bad cron", "99 * * * *", "proving.plain", "{}"),
        ("bad stage", "* * * * *", "proving.typo", "{}"),
        ("bad payload", "* * * * *", "proving.plain", '{"colour": "red"}'),
        ("good", "* * * * *", "proving.plain", "{}"),
    ):
        psql.execute(
            "INSERT INTO runtime.schedules (name, cron, stage, payload) VALUES (%s, %s, %s, %s)",
            [name, cron, stage, payload],
        )

    rows = schedules(gristmill)
    table = gristmill("schedules", "list")[1]
    shown = gristmill("schedules", "show", "bad payload")[1]

    assert {name: row["state"] for name, row in rows.items()} == {
        "bad cron": "refused", "bad stage": "refused", "bad payload": "refused",
        "good": "enabled",
    }  # fmt: skip
    assert rows["bad cron"]["next_time"] is None
    for name, reason in (
        ("bad cron", "cron must have five fields"),
        ("bad stage", "stage 'proving.typo' is not registered"),
        ("bad payload", "payload: colour is not a field of this stage, got 'red'"),
    ):
        assert rows[name]["refusal"].startswith(reason)
        assert f"{name}: refused: {reason}" in table
    assert "refused: payload: colour is not a field of this stage" in shown
    assert '{"colour": "red"}' in shown
    code, _, line = gristmill("schedules", "run", "bad payload")
    assert (code, "colour is not a field" in line) == (2, True)
    gristmill("schedules", "pause", "bad cron")
    assert schedules(gristmill)["bad cron"]["state"] == "paused"
    assert gristmill("schedules", "resume", "bad cron")[0] == 2


def test_an_edit_is_checked_as_a_whole(gristmill, psql):
    """The new values must fit together, and no time before the change fires."""
    gristmill("schedules", "add", "s", "--cron", "0 9 * * 1", *PLAIN, "--payload", '{"key": "a"}')

    assert gristmill("schedules", "edit", "s", "--cron", "0 9 * *")[0] == 2
    assert gristmill("schedules", "edit", "s", "--payload", '{"colour": 1}')[0] == 2
    assert gristmill("schedules", "edit", "nobody", "--cron", "0 9 * * 2")[0] == 1
    assert gristmill("schedules", "edit", "s")[0] == 2
    assert schedules(gristmill)["s"]["changed_at"] is None
    assert gristmill("schedules", "edit", "s", "--cron", "0  10 * * 2", "--timezone", "Asia/Tokyo")[0] == 0

    row = schedules(gristmill)["s"]
    assert (row["cron"], row["timezone"], row["payload"]) == ("0 10 * * 2", "Asia/Tokyo", {"key": "a"})
    assert row["changed_at"] is not None
    assert gristmill("schedules", "edit", "s", "--action", "prune")[0] == 0
    assert (schedules(gristmill)["s"]["action"], schedules(gristmill)["s"]["stage"]) == ("prune", None)
    assert gristmill("schedules", "add", "s", "--cron", "0 9 * * 1", *PLAIN)[0] == 1


def test_run_of_a_maintenance_action_does_it_and_tells_what_it_did(gristmill, psql, database_url, redis_url, tmp_path):
    """It runs in a new process, as for a person. Old jobs, ticks and answers are deleted."""
    for name in ("prune", "expire"):
        gristmill("schedules", "add", name, "--cron", "* * * * *", "--action", name)
    [profile] = psql.execute("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id").fetchall()
    psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.')", [profile["id"]])
    psql.execute(
        "UPDATE scoring.scoring_jobs SET status = 'cancelled', version = 2, completed_at = now() - interval '8 days'"
    )
    psql.execute(
        "INSERT INTO runtime.ticks (schedule, scheduled_for, fired_at, fired_by) "
        "VALUES ('prune', now() - interval '31 days', now() - interval '31 days', 'b')"
    )

    environment = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
    command_line = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())", "schedules", "run"]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*command_line, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    pruned, expired, again = run("prune", "--json"), run("expire"), run("prune")

    assert json.loads(pruned.stdout)["changed"]["scoring.scoring_jobs"] == 1
    assert psql.execute("SELECT 1 FROM scoring.scoring_jobs").fetchall() == []
    assert expired.stderr.strip() == "expire done: 1 runtime.ticks"
    assert psql.execute("SELECT 1 FROM runtime.ticks").fetchall() == []
    assert again.stderr.strip().startswith("prune done: nothing to do in ")
