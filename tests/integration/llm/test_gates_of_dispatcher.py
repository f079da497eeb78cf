"""What the dispatcher's own login sees of providers, and which jobs its gates keep back. It never reads a key."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from local.logins import make_logins
from tests.support.paths import ROOT
from workers.llm.gates import gates_of
from workers.llm.pause_store import SharedPauses
from workers.llm.routing.keyless import read_keyless
from workers.llm.routing.routing import Provider
from workers.operations.keyring import Keyring, new_key
from workers.runtime.database import Database
from workers.runtime.dispatch.gates import AskedStage, Gate
from workers.runtime.handler.registry import Registry

SECOND = timedelta(seconds=1)
URL = "http://127.0.0.1:1/v1"


@pytest.fixture
def token() -> str:
    """An encrypted key."""
    return Keyring([new_key()]).encrypt("sk-not-for-dispatchers")


@pytest.fixture
async def dispatcher(database_url, tmp_path):
    """The database by the login of a dispatcher."""
    [login] = [
        one for one in make_logins(database_url, tmp_path / "roles", new_passwords=True) if one.kind == "dispatcher"
    ]
    database = Database(login.url, changed_by="dispatcher:test", pool_size=2)
    yield database
    await database.close()


@pytest.fixture
def local(psql, token):
    """A provider with a key, by which all questions go."""
    psql.execute(
        "INSERT INTO llm.providers (name, kind, base_url, api_key, created_at, updated_at) "
        "VALUES ('local', 'compatible', %s, %s, now() - interval '1 hour', now() - interval '1 hour')",
        [URL, token],
    )
    psql.execute("INSERT INTO llm.routes (name, serves) VALUES ('default', 'chat'), ('fast', 'chat')")
    psql.execute("INSERT INTO llm.route_steps (route, position, provider, model) VALUES ('default', 0, 'local', 'm')")
    return "local"


def report(psql, *, url: str | None = URL, started: datetime | None = None, **more: object) -> None:
    """Write the row of a live worker that reports who answers it by its environment."""
    said = {"provider": "compatible", "url": url, "model": "m", "chosen_by": "environment", "has_key": True} | more
    psql.execute(
        "INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds, started_at, provider) "
        "VALUES (gen_random_uuid(), 'w', '{scoring}', 1, 600, coalesce(%s, now()), %s)",
        [started, Jsonb(said)],
    )


async def look(dispatcher: Database, registry: Registry, stage: str, *keys: str) -> list[Gate]:
    """Ask the gates once, as a process that has just started; return those of jobs."""
    gates = await gates_of(dispatcher).look([AskedStage(registry[stage], keys)])
    return [gate for gate in gates if gate.has_jobs]


async def routing_of(dispatcher: Database) -> dict[str, Provider]:
    async with dispatcher.kernel() as conn:
        return dict((await read_keyless(conn)).providers)


async def test_rows_and_settings_are_read_without_keys(psql, dispatcher, local, token):
    """By the rights of its login, which may read neither table of keys."""
    psql.execute(
        "INSERT INTO operations.system_settings (key, value) VALUES "
        "('ai_provider', 'openrouter'), ('openrouter_key', %s), ('llm_model', 'vendor/m')",
        [token],
    )

    async with dispatcher.kernel() as conn:
        routing = await read_keyless(conn)

    assert {name: (one.server, one.api_key) for name, one in routing.providers.items()} == {
        "environment": (None, None),
        "local": (URL, None),
        "settings": ("https://openrouter.ai/api/v1", None),
    }
    assert routing.routes["default-embeddings"].steps[0].provider == "settings"
    for table in ("llm.providers", "operations.system_settings"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with dispatcher.kernel() as conn:
                await conn.execute(f"SELECT * FROM {table}".encode())


@contextmanager
def without_rule_of_settings(psql: "psycopg.Connection[dict[str, object]]") -> Iterator[None]:
    """Admit any setting while the block runs; afterwards no setting is left, and the rule holds again."""
    name = "ck_system_settings_value"
    found = psql.execute(
        "SELECT pg_get_constraintdef(oid) AS rule FROM pg_constraint WHERE conname = %s", [name]
    ).fetchone()
    assert found is not None
    psql.execute(f"ALTER TABLE operations.system_settings DROP CONSTRAINT {name}".encode())
    try:
        yield
    finally:
        psql.execute("DELETE FROM operations.system_settings")
        psql.execute(f"ALTER TABLE operations.system_settings ADD CONSTRAINT {name} {found['rule']}".encode())


async def test_no_row_of_the_chosen_provider_holds_a_secret(psql, dispatcher, token):
    """Neither a key, nor an address that an older release accepted with one."""
    with without_rule_of_settings(psql):
        psql.execute(
            "INSERT INTO operations.system_settings (key, value) VALUES "
            "('ai_provider', 'openai'), ('openai_key', %s), ('ai_host', 'https://h/sk-1234567890abcdef')",
            [token],
        )
        async with dispatcher.kernel() as conn:
            row = await (await conn.execute("SELECT * FROM llm.chosen_provider()")).fetchone()

    assert row is not None
    assert row[:4] == ("openai", None, None, None)


async def test_what_the_environment_of_workers_says_is_taken_from_their_reports(psql, dispatcher):
    """Of workers that agree. If they differ, nothing is known, and nothing is kept back."""
    report(psql)
    report(psql)
    assert (await routing_of(dispatcher))["environment"].server == URL

    report(psql, url="http://127.0.0.1:2/v1")
    assert (await routing_of(dispatcher))["environment"].is_offline


async def test_a_paused_provider_keeps_its_own_jobs_back(psql, dispatcher, registry, local):
    """Of scoring, analyses and assessments, by the model or route that they name. Jobs of another route pass."""
    psql.execute("INSERT INTO llm.providers (name, kind, base_url) VALUES ('other', 'compatible', 'http://h/v1')")
    psql.execute("INSERT INTO llm.route_steps (route, position, provider, model) VALUES ('fast', 0, 'other', 'n')")
    psql.execute("UPDATE llm.providers SET paused_at = now(), paused_reason = 'too dear' WHERE name = 'local'")

    for stage in ("scoring.score", "analytics.align", "assessment.assess"):
        [gate] = await look(dispatcher, registry, stage, "gpt-3.5-turbo", "route:fast")

        assert gate == Gate(
            stage, "gpt-3.5-turbo", 0, None, "provider local is paused by operators (too dear)", ("provider local",)
        )


async def test_a_project_with_a_route_of_its_own_is_not_kept_back(psql, dispatcher, registry, local):
    """A gate does not know the project of a job: it closes when the routes of all projects are closed."""
    psql.execute("INSERT INTO llm.providers (name, kind, base_url) VALUES ('other', 'compatible', 'http://h/v1')")
    psql.execute("INSERT INTO llm.route_steps (route, position, provider, model) VALUES ('fast', 0, 'other', 'n')")
    psql.execute(
        "INSERT INTO llm.route_bindings (serves, project_id, route) VALUES ('chat', gen_random_uuid(), 'fast')"
    )
    psql.execute("UPDATE llm.providers SET paused_at = now(), paused_reason = 'x' WHERE name = 'local'")

    assert await look(dispatcher, registry, "analytics.align", "gpt-3.5-turbo") == []
    assert len(await look(dispatcher, registry, "scoring.score", "gpt-3.5-turbo")) == 1

    psql.execute("UPDATE llm.providers SET paused_at = now(), paused_reason = 'x'")
    assert len(await look(dispatcher, registry, "analytics.align", "gpt-3.5-turbo")) == 1


async def test_a_key_without_quota_is_found_by_its_provider_until_the_key_changes(
    psql, database, dispatcher, registry, local
):
    """The dispatcher does not know the key. A pause from before the last change may be that of another key."""
    key = Provider(name="local", kind="compatible", api_key="sk-not-for-dispatchers").key_name
    minute = timedelta(minutes=1)
    await SharedPauses(database).begin(key, "insufficient_quota", asked=minute, first=SECOND, longest=minute)

    [gate] = await look(dispatcher, registry, "scoring.score", "gpt-3.5-turbo")
    assert (gate.free, gate.reason) == (0, f"provider {key} is away (insufficient_quota)")

    psql.execute("UPDATE llm.providers SET api_key = NULL WHERE name = 'local'")
    assert await look(dispatcher, registry, "scoring.score", "gpt-3.5-turbo") == []


async def test_a_key_of_the_environment_is_that_of_the_workers_that_run(psql, database, dispatcher, registry):
    """A pause that began before the first of them had started may be that of another key."""
    minute = timedelta(minutes=1)
    await SharedPauses(database).begin(
        "key 12345678 of environment", "no money", asked=minute, first=SECOND, longest=minute
    )
    report(psql, started=datetime.now(UTC) + timedelta(seconds=1))
    assert await look(dispatcher, registry, "scoring.score", "m") == []

    report(psql, started=datetime.now(UTC) - timedelta(hours=1))
    assert [gate.free for gate in await look(dispatcher, registry, "scoring.score", "m")] == [0]


async def test_a_limit_keeps_back_what_it_has_no_room_for(psql, dispatcher, registry, local):
    """Also a limit of the model alone; a budget that moves its jobs to the batch lane keeps none back."""
    psql.execute(
        "INSERT INTO llm.limits (provider, model, measure, at_most, window_seconds) "
        "VALUES ('local', 'm', 'requests', 2, 60)"
    )
    [gate] = await look(dispatcher, registry, "assessment.assess", "gpt-3.5-turbo")
    assert (gate.key, gate.free) == ("gpt-3.5-turbo", 2)

    psql.execute("DELETE FROM llm.limits")
    budget = """INSERT INTO llm.budgets (name, scope, "window", tokens, "then") VALUES ('b', 'all', 'day', 0, %s)"""
    psql.execute(budget, ["batch"])
    assert await look(dispatcher, registry, "assessment.assess", "gpt-3.5-turbo") == []
    psql.execute("DELETE FROM llm.budgets")
    psql.execute(budget, ["stop"])
    assert [one.free for one in await look(dispatcher, registry, "assessment.assess", "gpt-3.5-turbo")] == [0]


ASKED = [
    ({}, "gpt-3.5-turbo"),
    ({"options": {"model": "route:fast"}}, "route:fast"),
    ({"options": {"parts": [{"options": {"model": "a"}}, {"options": {"model": "b"}}]}}, "a"),
    ({"options": {"model": "x" * 3_000}}, "x" * 255),
    ({"options": "text"}, "gpt-3.5-turbo"),
    ({"options": {"model": ""}}, "gpt-3.5-turbo"),
]


@pytest.mark.parametrize(("request_data", "asked"), ASKED)
def test_an_assessment_is_kept_back_by_the_model_that_its_request_names(psql, request_data, asked):
    """Whoever writes the row. Of a composite the first part counts. Nothing else can be written."""
    [row] = psql.execute(
        "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES ('a', %s) "
        "RETURNING asked_model",
        [Jsonb(request_data)],
    ).fetchall()

    assert row["asked_model"] == asked


@pytest.mark.parametrize(
    ("model", "asked"), [(None, "gpt-3.5-turbo"), ("", "gpt-3.5-turbo"), ("route:fast", "route:fast")]
)
def test_an_analysis_is_kept_back_by_its_model(psql, model, asked):
    """Or by the default name. Nothing else can be written."""
    [project] = psql.execute("INSERT INTO operations.projects (name) VALUES ('p') RETURNING id").fetchall()
    [row] = psql.execute(
        'INSERT INTO operations.analytics_jobs ("projectId", "modelName") VALUES (%s, %s) RETURNING asked_model',
        [project["id"], model],
    ).fetchall()
    forged = psql.execute("UPDATE operations.analytics_jobs SET asked_model = 'forged' RETURNING asked_model")

    assert [row, *forged.fetchall()] == [{"asked_model": asked}] * 2


def test_the_dispatcher_is_given_no_key_in_compose():
    """Its gates need none."""
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    own = compose[compose.index("\n  dispatcher:") : compose.index("\n  beat:")]

    assert "openai_api_key" not in own
    assert "OPENAI" not in own
