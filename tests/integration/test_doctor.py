"""`gristmill doctor` tells of what operators chose at run time, not only of what the environment says."""

import io
import json
import sys

import psycopg
import pytest

from cli.doctor.servers import postgres
from tests.fakes.openai_server import FakeOpenAI
from workers.operations.keyring import new_key


@pytest.fixture
def doctor(gristmill, monkeypatch):
    """Return the checks by name; of a database where no role runs."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    def run():
        return {check["name"]: check for check in json.loads(gristmill("doctor", "--json")[1])["checks"]}

    return run


def choose(gristmill, monkeypatch, *words, secret=""):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{secret}\n"))
    assert gristmill("settings", "set", *words)[0] == 0


def test_the_environments_provider_is_checked_where_nothing_is_chosen(doctor):
    """Nothing is configured: the offline evaluator, and how to have another."""
    checks = doctor()

    assert (checks["provider"]["state"], checks["secrets"]["state"]) == ("ok", "ok")
    assert checks["provider"]["found"].startswith("offline evaluator")
    assert checks["pgvector"]["state"] == "ok"


def test_the_chosen_provider_is_asked_and_one_that_is_away_is_named(gristmill, doctor, monkeypatch):
    """The choice comes before the environment, as for workers."""
    with FakeOpenAI() as server:
        choose(gristmill, monkeypatch, "ai_provider=lmstudio", f"ai_host={server.url}")
        there = doctor()["provider"]
    away = doctor()["provider"]

    assert (there["state"], there["found"].split(" ")[0]) == ("ok", server.url)
    assert (away["state"], away["mend"]) == (
        "failed",
        "start it, or mend `gristmill settings set ai_host` (ai_provider is lmstudio)",
    )


def test_a_secret_that_no_key_decrypts_is_named_and_not_shown(gristmill, doctor, monkeypatch):
    """Keys were lost: the setting, and what to do."""
    choose(gristmill, monkeypatch, "ai_provider=openrouter", "openrouter_key", secret="sk-or-v1-secret-value")
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    checks = doctor()

    problem = "openrouter_key: no key of GRISTMILL_SECRET_KEYS decrypts it; set it again"
    assert (checks["secrets"]["state"], checks["secrets"]["found"]) == ("failed", problem)
    assert (checks["provider"]["state"], checks["provider"]["found"]) == ("failed", problem)
    assert "sk-or" not in json.dumps(checks)


def test_keys_that_are_none_are_refused_in_a_line(doctor, monkeypatch):
    """The variable is named, its value is not."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", "hunter2")

    check = doctor()["secrets"]

    assert check["state"] == "failed"
    assert check["found"].startswith("GRISTMILL_SECRET_KEYS must be keys of 32 bytes")
    assert "hunter2" not in json.dumps(check)


async def test_a_database_without_pgvector_is_slower_and_not_sick(fresh_database_url):
    """A warning, with the way out."""
    url = fresh_database_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as psql:
        psql.execute("DROP EXTENSION vector CASCADE")

    checks = {check.name: check async for check in postgres(url, quick=False)}

    assert (checks["pgvector"].state, checks["pgvector"].found) == (
        "warning",
        "none: similarity search compares with every record",
    )
    assert "CREATE EXTENSION vector" in checks["pgvector"].mend
