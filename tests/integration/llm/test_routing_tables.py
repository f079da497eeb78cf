"""Providers and routes as rows: what is read of them, who may write them, and how a pause ends."""

import asyncio
import uuid
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors

from tests.support.fakes.openai_server import FakeOpenAI
from workers.judging.answers import answer_to
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate, OutOfQuotaError
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.resuming import UnknownProviderError, resume_provider
from workers.llm.routing.routing import Step, UnknownRouteError
from workers.llm.routing.tables import read
from workers.llm.routing.virtual import Environment, merged
from workers.operations.keyring import Keyring, new_key
from workers.runtime.actor import Actor
from workers.runtime.database import Database
from workers.runtime.handler.errors import RateLimited, Unavailable
from workers.scoring.score import ScoreAnswer

PROJECT = uuid.UUID(int=7)
OPERATOR = Actor(changed_by="olga")
URL = "http://gpu.test:8000/v1"


def no_key(_token: str) -> str:
    raise AssertionError("nothing is encrypted")


async def routing_of(database, *, decrypt=no_key, environment=None):
    """Return what the tables say, beside an environment that says nothing."""
    async with database.session() as session:
        rows = await read(session, decrypt=decrypt)
    return merged(
        environment or Environment(), None, providers=rows.providers, routes=rows.routes, bindings=rows.bindings
    )


@pytest.fixture
def rows(psql):
    """A provider, three routes and what is bound to them."""
    psql.execute("INSERT INTO llm.providers (name, kind, base_url) VALUES ('gpu', 'compatible', %s)", [URL])
    for name, serves in (
        ("all", "chat"),
        ("scores", "chat"),
        ("project", "chat"),
        ("both", "chat"),
        ("e", "embeddings"),
    ):
        psql.execute("INSERT INTO llm.routes (name, serves) VALUES (%s, %s)", [name, serves])
        psql.execute("INSERT INTO llm.route_steps (route, position, provider, model) VALUES (%s, 0, 'gpu', %s)",
                     [name, f"m-{name}"])  # fmt: skip
    return psql


def bind(psql, route, *, stage=None, project=None, serves="chat"):
    psql.execute(
        "INSERT INTO llm.route_bindings (serves, stage, project_id, route) VALUES (%s, %s, %s, %s)",
        [serves, stage, project, route],
    )


async def test_the_closest_binding_counts(rows, database):
    """Stage and project before project, project before stage, stage before all."""
    bind(rows, "all")
    bind(rows, "scores", stage="scoring.score")
    bind(rows, "project", project=PROJECT)
    bind(rows, "both", stage="scoring.score", project=PROJECT)
    routing = await routing_of(database)

    def model(stage, project):
        (step,) = routing.path("gpt-3.5-turbo", stage=stage, project_id=project).steps
        return step.model

    assert model("analytics.align", None) == "m-all"
    assert model("scoring.score", None) == "m-scores"
    assert model("analytics.align", PROJECT) == "m-project"
    assert model("scoring.score", PROJECT) == "m-both"
    assert routing.embedding_path(stage=None, project_id=None).route.origin == "environment"


async def test_steps_are_read_in_their_order_with_all_they_say(rows, database):
    """As they are asked."""
    rows.execute("INSERT INTO llm.route_steps (route, position, provider, model) VALUES ('e', 9, 'gpu', 'x')")
    rows.execute("INSERT INTO llm.route_steps VALUES ('e', 1, 'gpu', 'm-e', 10, 20, 'passage: ', 'query: ')")
    routing = await routing_of(database)

    assert routing.routes["e"].steps == (
        Step(provider="gpu", model="m-e"),
        Step(
            provider="gpu",
            model="m-e",
            max_tokens=10,
            context_tokens=20,
            document_prefix="passage: ",
            query_prefix="query: ",
        ),
        Step(provider="gpu", model="x"),
    )
    assert "several embedding models" in str(routing.problem_of(routing.routes["e"]))
    with pytest.raises(UnknownRouteError, match="route 'e' is no route for chat"):
        routing.path("route:e", stage=None, project_id=None)


async def test_a_key_is_decrypted_and_shown_in_no_representation(rows, database):
    """One that no key decrypts is its provider's problem, not everybody's."""
    keyring = Keyring([new_key()])
    token = keyring.encrypt("sk-very-secret")
    rows.execute("UPDATE llm.providers SET api_key = %s", [token])

    good = await routing_of(database, decrypt=keyring.decrypt)
    bad = await routing_of(database, decrypt=Keyring([new_key()]).decrypt)

    assert good.providers["gpu"].api_key == "sk-very-secret"
    assert "very-secret" not in repr(good)
    assert bad.providers["gpu"].api_key is None
    assert str(bad.providers["gpu"].problem).startswith("key of provider gpu: no key of GRISTMILL_SECRET_KEYS")


@pytest.mark.parametrize(
    "values",
    [
        "('environment', 'openai', NULL, NULL)",
        "('settings', 'openai', NULL, NULL)",
        "('a b', 'openai', NULL, NULL)",
        "('p', 'mystery', NULL, NULL)",
        "('p', 'compatible', NULL, NULL)",
        "('p', 'compatible', 'ftp://host', NULL)",
        "('p', 'compatible', 'http://user:secret@host/v1', NULL)",
        "('p', 'compatible', 'http://host/v1?key=1', NULL)",
        "('p', 'compatible', 'https://host/sk-0123456789abcdef', NULL)",
        "('p', 'openai', 'http://host/v1', NULL)",
        "('p', 'offline', 'http://host/v1', NULL)",
        "('p', 'openai', NULL, 'sk-in-the-clear-0123456789')",
    ],
)
def test_a_provider_that_breaks_a_rule_is_refused_by_the_database(psql, values):
    """Also by hand in psql; no key is kept in the clear."""
    with pytest.raises(errors.CheckViolation):
        psql.execute(f"INSERT INTO llm.providers (name, kind, base_url, api_key) VALUES {values}".encode())


def test_what_is_bound_must_serve_it_and_what_is_used_stays(rows):
    """A binding of embeddings to a chat route, a provider or route that is in use."""
    with pytest.raises(errors.ForeignKeyViolation):
        bind(rows, "all", serves="embeddings")
    bind(rows, "all")
    for statement in ("DELETE FROM llm.providers", "DELETE FROM llm.routes WHERE name = 'all'"):
        with pytest.raises(errors.ForeignKeyViolation):
            rows.execute(statement.encode())
    with pytest.raises(errors.UniqueViolation):
        bind(rows, "scores")


def as_role(psql, role, statement):
    """Run a statement as a role and take it back; return its error."""
    try:
        with psql.transaction(force_rollback=True):
            psql.execute(f"SET LOCAL ROLE {role}".encode())
            psql.execute(statement.encode())
    except psycopg.Error as error:
        return type(error)
    return None


@pytest.mark.parametrize("table", ["providers", "routes", "route_steps", "route_bindings"])
def test_operators_alone_write_workers_read_services_have_nothing(rows, table):
    """And dispatchers read where calls go, but neither addresses nor keys."""
    denied = errors.InsufficientPrivilege
    select, delete = f"SELECT * FROM llm.{table}", f"DELETE FROM llm.{table} WHERE false"

    assert as_role(rows, "gristmill_worker", select) is None
    assert as_role(rows, "gristmill_worker", delete) is denied
    assert as_role(rows, "gristmill_operator", select) is None
    assert as_role(rows, "gristmill_operator", delete) is None
    assert as_role(rows, "gristmill_dispatcher", select) is (denied if table == "providers" else None)
    assert as_role(rows, "gristmill_dispatcher", delete) is denied
    for statement in (select, delete):
        assert as_role(rows, "gristmill_service", statement) is denied
    if table == "providers":
        assert as_role(rows, "gristmill_dispatcher", "SELECT name, kind, paused_at FROM llm.providers") is None
        insert = "INSERT INTO llm.providers (name, kind) VALUES ('o', 'openai')"
        assert as_role(rows, "gristmill_operator", insert) is None


# ── pause and resume ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_operators_pause_is_read_and_ends(rows, database):
    """With its reason, once; a provider that is not known is refused with one line."""
    rows.execute("UPDATE llm.providers SET paused_at = now(), paused_reason = 'too dear'")
    paused = await routing_of(database)

    async with database.session() as session:
        resumed = await resume_provider(session, "gpu", OPERATOR, routing=paused)
        again = await resume_provider(session, "gpu", OPERATOR, routing=paused)

    assert paused.providers["gpu"].paused_reason == "too dear"
    assert resumed.reasons == ["too dear"]
    assert resumed.causes[0] == "provider gpu"
    assert again.reasons == []
    assert (await routing_of(database)).providers["gpu"].paused_at is None
    async with database.session() as session:
        with pytest.raises(UnknownProviderError, match="provider 'gqu' is not known; providers: environment, gpu"):
            await resume_provider(session, "gqu", OPERATOR, routing=paused)


@pytest.fixture
def fake():
    """A server whose account is empty."""
    with FakeOpenAI() as fake:
        fake.script(default={"kind": "status", "status": 402})
        yield fake


async def test_resume_ends_a_key_without_quota_in_every_process(database_url, database, psql, fake):
    """Each learns of a pause without a call of its own, and of its end without waiting for it."""
    psql.execute("INSERT INTO llm.providers (name, kind, base_url) VALUES ('gpu', 'compatible', %s)", [fake.url])
    psql.execute("INSERT INTO llm.routes VALUES ('default', 'chat')")
    psql.execute("INSERT INTO llm.route_steps (route, position, provider, model) VALUES ('default', 0, 'gpu', 'm')")
    processes = [Database(database_url, changed_by=f"worker:{n}", pool_size=1) for n in range(2)]

    def process(own: Database):
        async def look() -> Seen:
            async with own.session() as session:
                rows = await read(session, decrypt=no_key)
            routing = merged(Environment(), None, providers=rows.providers, routes=rows.routes)
            return Seen(routing, rows.pauses)

        options = ClientOptions(connect_timeout=2.0, timeout=5.0, max_connections=4)
        return controlled(look=look, options=options, gate=Gate(SharedPauses(own)), free=own.close, look_seconds=0.0)

    one, other = map(process, processes)
    into = answer_to(["use"], form=ScoreAnswer)

    async def parse(model):
        return await model.parse([{"role": "user", "content": "x"}], into=into, model="gpt-3.5-turbo")

    await other.resolve("m")
    for model in (one, other, one):
        with pytest.raises(RateLimited, match="quota of provider gpu is used up"):
            await parse(model)
    assert fake.calls == 1

    fake.script(default={"kind": "says", "content": "I cannot."})
    async with database.session() as session:
        resumed = await resume_provider(session, "gpu", OPERATOR, routing=await routing_of(database))

    assert [reason.partition(":")[0] for reason in resumed.reasons] == ["HTTP 402 fake"]
    for model in (one, other):
        with pytest.raises(Exception) as told:  # noqa: PT011 - it was asked, and did not like the question
            await parse(model)
        assert not isinstance(told.value, RateLimited)
    assert fake.calls > 1
    for model in (one, other):
        await model.aclose()


async def test_one_process_of_all_tells_the_operator(database_url, caplog, capsys):
    """Once, however many processes meet the same outage."""
    databases = [Database(database_url, changed_by=f"worker:{n}") for n in range(3)]
    gates = [Gate(SharedPauses(one)) for one in databases]

    async def fail(gate):
        with pytest.raises(Unavailable):
            async with gate.asking("s", "m", request="r", key="key 1 of p"):
                raise OutOfQuotaError("HTTP 402", certain=True, of="server", asked=timedelta(minutes=5))

    await asyncio.gather(*map(fail, gates))
    for one in databases:
        await one.close()

    said = caplog.text + "".join(capsys.readouterr())
    assert said.count("provider_away") == 1
    assert "key 1 of p" in said


async def test_a_process_follows_the_pauses_of_others(database_url):
    """What others begin holds here, what others end is over, and what only this process knows stays."""
    database = Database(database_url, changed_by="worker:1")
    gate, store = Gate(SharedPauses(database)), SharedPauses(database)
    loop = asyncio.get_running_loop()
    await gate.check("s", "m")
    second = timedelta(seconds=60)
    await store.begin("s", "HTTP 503", asked=second, first=second, longest=second)

    await gate.follow(await store.find("s"), began=loop.time() + 1)
    with pytest.raises(Unavailable, match="HTTP 503"):
        await gate.check("s", "m")

    await store.end("s")
    began = loop.time()
    await gate.follow({}, began=began - 60)  # a look that began before this process heard of the pause ends nothing
    with pytest.raises(Unavailable):
        await gate.check("s", "m")
    await gate.follow(await store.find("s"), began=began + 1)
    await gate.check("s", "m")
    await database.close()


async def test_gate_alone_is_followed_by_nobody():
    """Without a store a pause is this process's own: no look ends it."""
    gate = Gate(first=timedelta(minutes=1))
    with pytest.raises(Unavailable):
        async with gate.asking("s", "m", request="r"):
            raise Unavailable("HTTP 503", certain=True)

    await gate.follow({}, began=asyncio.get_running_loop().time() + 1)

    with pytest.raises(Unavailable):
        await gate.check("s", "m")
