"""The row of a worker has its release and its language model provider, without any secret."""

import json
from dataclasses import asdict
from uuid import uuid4

import pytest

from cli.provider import answering_of, worker_provider
from config.settings import load
from gristmill_testing.waiting import until
from workers.llm.answering import Answering, describe_report
from workers.llm.routing.routing import Provider, Route, Step
from workers.llm.routing.tables import Rows
from workers.operations.keyring import Keyring, new_key
from workers.operations.provider_choice import ProviderChoice
from workers.operations.system_settings import put

CHOICE = {"base_url": None, "api_key": None, "llm_model": None, "embedding_model": None}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Return a function that makes settings from the given environment variables only."""
    monkeypatch.chdir(tmp_path)

    def settings(**variables):
        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GRISTMILL_LLM__MODEL", "GRISTMILL_LLM__EMBEDDING_MODEL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load()

    return settings


async def test_the_heartbeat_reports_the_provider(worker, jobs):
    """It is written when it is known, and kept until another provider is known."""
    worker.kernel.report_provider({"provider": "offline"})

    async def reported():
        return await jobs.sql('SELECT 1 FROM runtime.workers WHERE provider = \'{"provider": "offline"}\'')

    await until(reported)
    worker.kernel.report_provider(None)
    beats = await jobs.sql("SELECT heartbeat_at FROM runtime.workers")
    await until(lambda: _moved(jobs, beats))
    assert await reported()


async def _moved(jobs, beats):
    return await jobs.sql("SELECT heartbeat_at FROM runtime.workers") != beats


def test_the_environments_provider_is_told_without_its_secrets(environment):
    """It shows neither the key nor the credentials of the URL."""
    settings = environment(OPENAI_API_KEY="sk-secret-key", OPENAI_BASE_URL="http://user:s3cret@gpu:1234/v1")

    told_ = asdict(answering_of(settings, None))

    assert (told_["provider"], told_["url"], told_["has_key"]) == ("compatible", "http://gpu:1234/v1", True)
    assert "s3cret" not in json.dumps(told_)
    assert "sk-secret" not in json.dumps(told_)


@pytest.mark.parametrize(
    ("variables", "choice", "provider", "url"),
    [
        ({}, None, "offline", None),
        ({"OPENAI_API_KEY": "k"}, None, "openai", "https://api.openai.com/v1"),
        ({"OPENAI_API_KEY": "k"}, ("offline", {}), "offline", None),
        ({}, ("lmstudio", {}), "lmstudio", "http://localhost:1234/v1"),
        ({}, ("openrouter", {"base_url": "https://h/v1", "api_key": "k"}), "openrouter", "https://h/v1"),
        ({}, (None, {"llm_model": "m"}), "offline", None),
    ],
)
def test_the_operators_choice_comes_before_the_environment(environment, variables, choice, provider, url):
    """The same order is used for the calls."""
    settings = environment(**variables)
    chosen = None if choice is None else ProviderChoice(choice[0], **{**CHOICE, **choice[1]})

    found = answering_of(settings, chosen)

    assert (found.provider, found.url) == (provider, url)
    assert provider in describe_report(asdict(found))


def test_routes_are_told_with_their_steps_and_for_whom(environment):
    """Beside who answers where nothing is bound; no key is among it."""
    settings = environment(OPENAI_API_KEY="k", OPENAI_BASE_URL="http://gpu:1234/v1")
    rows = Rows(
        providers=[
            Provider(name="fast", kind="compatible", base_url="http://fast:1/v1", api_key="sk-secret"),
            Provider(name="dear", kind="openrouter", base_url="https://dear/v1", api_key="sk-secret"),
        ],
        routes=[
            Route(
                name="scores",
                serves="chat",
                steps=(Step(provider="fast", model="m"), Step(provider="dear", model="n")),
            )
        ],
        bindings={("chat", "scoring.score", None): "scores"},
    )

    found = asdict(answering_of(settings, None, rows))

    assert (found["url"], found["chosen_by"]) == ("http://gpu:1234/v1", "environment")
    assert found["routes"] == ["scores (chat): fast m, then dear n; for scoring.score"]
    assert "secret" not in json.dumps(found)


def test_a_default_route_of_operators_is_who_answers(environment):
    """It comes before the environment and the settings."""
    rows = Rows(
        providers=[Provider(name="fast", kind="compatible", base_url="http://fast:1/v1")],
        routes=[Route(name="default", serves="chat", steps=(Step(provider="fast", model="m"),))],
    )

    found = answering_of(environment(OPENAI_API_KEY="k"), None, rows)

    assert (found.provider, found.url, found.model, found.chosen_by) == (
        "compatible",
        "http://fast:1/v1",
        "m",
        "routes",
    )
    empty = Rows(routes=[Route(name="default", serves="chat", steps=())])
    assert "has no step" in str(answering_of(environment(), None, empty).problem)


async def test_a_worker_without_the_keys_of_a_choice_tells_its_problem(environment, database_url, database):
    """Other workers can decrypt the choice; the calls of this worker fail, and its row says why."""
    async with database.session() as session:
        values = {"ai_provider": "openrouter", "openrouter_key": "sk-or-v1-0123456789abcdef"}
        await put(session, values, keyring=Keyring([new_key()]))
    settings = environment(GRISTMILL_SECRET_KEYS=new_key())

    llm, _, report = worker_provider(settings, database_url=database_url, name="test:provider", worker_id=uuid4())
    try:
        told_ = await report()
    finally:
        await llm.aclose()

    assert told_["problem"].startswith("openrouter_key: no key of GRISTMILL_SECRET_KEYS decrypts it")
    assert told_["provider"] == "openrouter"


def test_no_provider_is_shown_for_a_worker_without_a_report():
    """This is true for a worker of an older release, and in the first seconds of a worker."""
    assert describe_report(None) == ""
    assert describe_report(asdict(Answering(provider="offline"))) == "offline"
