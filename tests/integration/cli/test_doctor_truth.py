"""The doctor finds a failing provider, a frozen beat, and workers that use another provider."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cli.doctor.roles import compare_providers, judge_beat
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
        ({"kind": "status", "status": 500}, "failed", "answers with a server error (500)"),
        ({"kind": "status", "status": 503}, "failed", "answers with a server error (503)"),
        ({"kind": "status", "status": 401}, "failed", "refuses the key (401)"),
        ({"kind": "status", "status": 402}, "failed", "requires payment (402)"),
        ({"kind": "status", "status": 429}, "warning", "answers: too many requests (429)"),
        ({"kind": "html"}, "failed", "does not answer with JSON"),
        ({"kind": "error_200"}, "failed", "answers with an error: "),
        ({"kind": "answer"}, "ok", "answers"),
    ],
)
def test_the_provider_is_really_asked(doctor, monkeypatch, behaviour, state, found):
    """A server may return a list of models and fail all other requests."""
    with FakeOpenAI() as server:
        server.script(default=behaviour, models=["judge-1"])
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("GRISTMILL_LLM__MODEL", "judge-1")
        check = doctor()[1]["provider"]
        asked = server.calls

    assert asked == 1
    assert (check["state"], check["found"].startswith(f"{server.url} {found}")) == (state, True), check
    assert check["remedy"] or state == "ok"


def test_a_default_model_that_is_not_served_is_a_warning(doctor, monkeypatch):
    """The server answers, but every job without a model would fail."""
    with FakeOpenAI() as server:
        server.script(models=["judge-1"])
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        checks = doctor()[1]

    assert checks["provider"]["state"] == "ok"
    assert checks["model"]["state"] == "warning"
    assert "does not serve gpt-3.5-turbo" in checks["model"]["found"]


def test_the_embedding_model_is_asked_too(doctor, monkeypatch):
    """The server may not serve it."""
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


def test_a_beat_that_fires_nothing_fails_the_check(doctor, psql):
    """No beat runs, or it is frozen: the check names the overdue schedules and the remedy."""
    assert doctor()[1]["beat"]["found"] == "none has ever run here"

    schedule(psql, "overdue")
    schedule(psql, "paused", enabled=False)
    schedule(psql, "later", "0 0 29 2 *")
    code, checks = doctor()

    assert (code, checks["beat"]["state"]) == (1, "failed")
    assert checks["beat"]["found"].startswith("1 schedule overdue: overdue (since ")
    assert "gristmill beat" in checks["beat"]["remedy"]


def test_a_beat_that_fires_on_time_is_ok(doctor, psql):
    """The check says which beat fired last."""
    schedule(psql, "minutely", last_scheduled_for=datetime.now(UTC))
    psql.execute(
        "INSERT INTO runtime.ticks (schedule, scheduled_for, fired_by) VALUES ('minutely', now(), 'beat@here')"
    )

    check = doctor()[1]["beat"]

    assert check["state"] == "ok"
    assert check["found"].endswith("ago by beat@here")


async def test_an_invalid_schedule_is_refused_and_not_overdue(database, psql):
    """It was written in SQL; the check has the reason. A time of infinity is refused by a CHECK."""
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
    assert (judge_beat(refused).state, "wrong: cron must" in judge_beat(refused).found) == ("failed", True)


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


def test_workers_with_another_provider_than_this_shell_fail_the_check():
    """The doctor asked another provider than the jobs use."""
    here = Answering(provider="offline")
    there = worker(provider="compatible", url="http://gpu:1234/v1", model="m", problem=None)
    same = worker(provider="offline", url=None, problem=None)
    broken = worker(provider="openrouter", url=None, problem="openrouter_key: no key decrypts it")

    assert compare_providers([same], here).state == "ok"
    assert compare_providers([], here).state == "unknown"
    told = compare_providers([same, there], here)
    assert told.state == "failed"
    assert "worker@a asks compatible http://gpu:1234/v1 m, without a key; this shell would ask offline" in told.found
    assert told.remedy
    assert compare_providers([broken], here).found == "worker@a: openrouter_key: no key decrypts it"


def test_the_report_of_a_worker_is_compared_with_the_settings_of_this_shell(doctor, psql, monkeypatch):
    """The report is read from the row of the worker."""
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
    assert checks["silent"]["found"].startswith("1 worker without a heartbeat: old")


def test_every_failed_check_has_a_remedy(doctor):
    """No role runs here."""
    _, checks = doctor()

    assert {name for name, check in checks.items() if check["state"] == "failed"} >= {"dispatcher", "beat", "workers"}
    assert all(check["remedy"] for check in checks.values() if check["state"] == "failed")
