"""The doctor is not green while something is wrong: a provider that fails, a frozen beat, workers that ask another."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cli.doctor.roles import compared, judged
from tests.support.fakes.openai_server import FakeOpenAI
from workers.llm.answering import Answering
from workers.operations.keyring import new_key
from workers.runtime.operate.health import BeatHealth, beat_health
from workers.runtime.operate.workers import WorkerView

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def doctor(gristmill, monkeypatch):
    """Return the exit code and the checks by name."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    def run() -> tuple[int, dict[str, dict[str, Any]]]:
        code, output, _ = gristmill("doctor", "--json")
        return code, {check["name"]: check for check in json.loads(output)["checks"]}

    return run


@pytest.mark.parametrize(
    ("behaviour", "state", "found"),
    [
        ({"kind": "status", "status": 500}, "failed", "answers with an error of its own (500)"),
        ({"kind": "status", "status": 503}, "failed", "answers with an error of its own (503)"),
        ({"kind": "status", "status": 401}, "failed", "refuses the key (401)"),
        ({"kind": "status", "status": 402}, "failed", "asks to be paid (402)"),
        ({"kind": "status", "status": 429}, "warning", "answers that it is asked too much (429)"),
        ({"kind": "html"}, "failed", "answers with no JSON"),
        ({"kind": "error_200"}, "failed", "answers with an error: "),
        ({"kind": "answer"}, "ok", "answers"),
    ],
)
def test_the_provider_is_really_asked(doctor, monkeypatch, behaviour, state, found):
    """A list of models comes from a server that answers nothing else."""
    with FakeOpenAI() as server:
        server.script(default=behaviour, models=["judge-1"])
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("GRISTMILL_LLM__MODEL", "judge-1")
        check = doctor()[1]["provider"]
        asked = server.calls

    assert asked == 1
    assert (check["state"], check["found"].startswith(f"{server.url} {found}")) == (state, True), check
    assert check["mend"] or state == "ok"


def test_a_default_model_that_is_not_served_is_told(doctor, monkeypatch):
    """Every job that names no model would fail, though the server answers."""
    with FakeOpenAI() as server:
        server.script(models=["judge-1"])
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        checks = doctor()[1]

    assert checks["provider"]["state"] == "ok"
    assert checks["model"]["state"] == "warning"
    assert "serves no gpt-3.5-turbo" in checks["model"]["found"]


def test_the_embedding_model_is_asked_too(doctor, monkeypatch):
    """It may be another server's, or nobody's."""
    with FakeOpenAI() as server:
        server.script(models=["judge-1"])
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("GRISTMILL_LLM__MODEL", "judge-1")
        monkeypatch.setenv("GRISTMILL_LLM__EMBEDDING_MODEL", "embedder-1")
        check = doctor()[1]["embeddings"]

    assert (check["state"], check["found"]) == ("ok", f"{server.url} embeds as embedder-1")


def schedule(psql, name, cron="* * * * *", *, since="2 hours", **more):
    psql.execute(
        """INSERT INTO runtime.schedules (name, action, cron, created_at, updated_at)
           VALUES (%s, 'prune', %s, now() - %s::interval, now() - %s::interval)""",
        [name, cron, since, since],
    )
    for column, value in more.items():
        psql.execute(f"UPDATE runtime.schedules SET {column} = %s WHERE name = %s".encode(), [value, name])


def test_a_beat_that_fires_nothing_is_told(doctor, psql):
    """Frozen, or none: the schedules that should have fired, and how to mend it."""
    assert doctor()[1]["beat"]["found"] == "none has ever run here"

    schedule(psql, "overdue")
    schedule(psql, "paused", enabled=False)
    schedule(psql, "later", "0 0 29 2 *")
    code, checks = doctor()

    assert (code, checks["beat"]["state"]) == (1, "failed")
    assert checks["beat"]["found"].startswith("1 schedules are overdue: overdue (since ")
    assert "gristmill beat" in checks["beat"]["mend"]


def test_a_beat_that_fires_on_time_is_well(doctor, psql):
    """It says who fired last."""
    schedule(psql, "minutely", last_scheduled_for=datetime.now(UTC))
    psql.execute(
        "INSERT INTO runtime.ticks (schedule, scheduled_for, fired_by) VALUES ('minutely', now(), 'beat@here')"
    )

    check = doctor()[1]["beat"]

    assert check["state"] == "ok"
    assert check["found"].endswith("ago by beat@here")


async def test_a_schedule_that_nobody_understands_fires_nothing(database, psql):
    """Written by SQL: named with the reason. A time of infinity is refused."""
    with pytest.raises(psycopg.errors.CheckViolation), psql.transaction():
        schedule(psql, "infinite", last_scheduled_for="infinity")
    schedule(psql, "wrong", "a b c d e", since="1 second")

    async with database.kernel() as conn:
        health = await beat_health(conn)

    assert [name for name, _ in health.refused] == ["wrong"]
    assert health.overdue == []
    refused = BeatHealth(
        enabled=1, overdue=[], refused=health.refused, last_fired_at=None, last_fired_by=None, now=health.now
    )
    assert (judged(refused).state, "wrong: cron must" in judged(refused).found) == ("failed", True)


def worker(**provider: Any) -> WorkerView:
    return WorkerView(
        id=uuid4(),
        name="worker@a",
        state="running",
        queues=["scoring"],
        slots=1,
        running=0,
        lease_seconds=10,
        lease_until=NOW + timedelta(seconds=10),
        started_at=NOW,
        heartbeat_at=NOW,
        silent_for=timedelta(),
        draining_at=None,
        version="0",
        provider={"has_key": False, "model": None, "embedding_model": None, "chosen_by": "environment"} | provider,
    )


def test_workers_that_ask_another_provider_than_this_shell_are_told():
    """What the doctor asked was not what the jobs ask."""
    here = Answering(provider="offline")
    there = worker(provider="compatible", url="http://gpu:1234/v1", model="m", problem=None)
    same = worker(provider="offline", url=None, problem=None)
    broken = worker(provider="openrouter", url=None, problem="openrouter_key: no key decrypts it")

    assert compared([same], here).state == "ok"
    assert compared([], here).state == "unknown"
    told = compared([same, there], here)
    assert told.state == "failed"
    assert "worker@a asks compatible http://gpu:1234/v1 m, without a key; this shell would ask offline" in told.found
    assert told.mend
    assert compared([broken], here).found == "worker@a: openrouter_key: no key decrypts it"


def test_the_report_of_a_worker_is_held_against_this_shells_settings(doctor, psql, monkeypatch):
    """From its row to the check."""
    provider = Jsonb({"provider": "compatible", "url": "http://gpu:1/v1", "has_key": True, "model": None})
    psql.execute(
        """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds, version, provider)
           VALUES (gen_random_uuid(), 'w', '{scoring}', 1, 60, '0.0.1', %s),
                  (gen_random_uuid(), 'old', '{scoring}', 1, 60, NULL, NULL)""",
        [provider],
    )
    psql.execute("UPDATE runtime.workers SET heartbeat_at = now() - interval '1 hour' WHERE name = 'old'")

    checks = doctor()[1]

    assert checks["workers ask"]["state"] == "failed"
    assert checks["workers ask"]["found"].startswith("w asks compatible http://gpu:1/v1; this shell would ask offline")
    assert checks["versions"]["found"].startswith("workers run 0.0.1, this is ")
    assert checks["silent"]["found"].startswith("1 workers give no sign of life: old")


def test_every_check_that_fails_says_how_to_mend_it(doctor):
    """Of a system where no role runs."""
    _, checks = doctor()

    assert {name for name, check in checks.items() if check["state"] == "failed"} >= {"dispatcher", "beat", "workers"}
    assert all(check["mend"] for check in checks.values() if check["state"] == "failed")
