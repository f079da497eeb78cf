"""The model follows what operators choose, while calls are under way and while the choice cannot be read."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from gristmill_testing.waiting import until
from workers.llm.controlled import ControlledModel
from workers.llm.pauses import Gate
from workers.llm.provider import ClientOptions, client_of, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.routing import Provider
from workers.llm.routing.virtual import Environment, merged
from workers.runtime.handler.errors import Permanent, Retryable, Unavailable
from workers.runtime.handler.ports import EmbeddingLimits, Embeddings, Purpose

SOON = 0.02
ENVIRONMENT = Environment(api_key="env-key", base_url="http://env.test/v1")
OPTIONS = ClientOptions(connect_timeout=1.0, timeout=1.0, max_connections=2)


@dataclass(frozen=True)
class Chosen:
    """A choice as the settings make it."""

    provider: str | None = "lmstudio"
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    llm_model: str | None = None
    embedding_model: str | None = None
    problem: str | None = None


class Named:
    """A provider that says its name, and holds its calls while ``open`` is clear."""

    embedding_limits = EmbeddingLimits()

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def resolve(self, model: str) -> str:
        self.asked += 1
        await self.open.wait()
        assert not self.closed
        return f"{self.name}|{model}"

    async def parse(self, *_, **__):
        raise NotImplementedError

    async def embedding_model(self) -> str:
        return f"embedder of {self.name}"

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        return Embeddings([[1.0] for _ in texts], model, None)

    async def aclose(self) -> None:
        self.closed = True


class Desk:
    """Where the choice is read; it can be slow, and away. ``made`` are the providers by name, in order."""

    def __init__(self) -> None:
        self.choice: Chosen | None = None
        self.error: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.looks = 0
        self.made: list[Named] = []
        self.cannot_make: Exception | None = None
        self.looking = 0
        self.released = False

    async def look(self) -> Seen:
        self.looks += 1
        self.looking += 1
        try:
            await self.answering.wait()
        finally:
            self.looking -= 1
        if self.error:
            raise self.error
        return Seen(merged(ENVIRONMENT, self.choice))

    def make(self, provider: Provider) -> Named:
        if self.cannot_make:
            raise self.cannot_make
        self.made.append(Named("environment" if provider.origin == "environment" else provider.kind))
        return self.made[-1]

    async def free(self) -> None:
        assert not self.looking
        self.released = True

    def model(self, *, look_seconds: float = SOON) -> ControlledModel:
        return ControlledModel(
            look=self.look,
            make=self.make,
            gate=Gate(),
            embedding_limits=EmbeddingLimits(),
            free=self.free,
            look_seconds=look_seconds,
        )


@pytest.fixture
def desk():
    return Desk()


async def test_choice_is_followed_and_taken_back_without_a_restart(desk):
    """Nothing chosen: the environment's provider. A provider that is replaced is closed."""
    model = desk.model()
    answers = [await model.resolve("m")]
    for choice in (Chosen("openrouter"), Chosen("lmstudio"), None):
        desk.choice = choice
        await asyncio.sleep(SOON)
        answers.append(await model.resolve("m"))
    await model.aclose()

    assert answers == ["environment|m", "openrouter|m", "lmstudio|m", "environment|m"]
    assert all(made.closed for made in desk.made)
    assert desk.released


async def test_same_choice_keeps_its_provider(desk):
    """Looking costs no connection that is open."""
    desk.choice = Chosen("openai", api_key="a-key")
    model = desk.model()
    for _ in range(3):
        await model.resolve("m")
        desk.choice = Chosen("openai", api_key="a-key")
        await asyncio.sleep(SOON)

    assert (desk.looks, len(desk.made)) == (3, 1)
    desk.choice = Chosen("openai", api_key="another-key")
    await model.resolve("m")
    assert len(desk.made) == 2


async def test_choice_is_read_by_one_caller_for_all_and_not_for_a_while(desk):
    """A thousand jobs cost one look."""
    model = desk.model(look_seconds=60.0)

    await asyncio.gather(*(model.resolve("m") for _ in range(50)))
    await model.resolve("m")

    assert (desk.looks, len(desk.made)) == (1, 1)


async def test_calls_under_way_end_with_the_provider_they_began_with(desk):
    """It is closed after the last of them, not before; a cancelled call counts as ended."""
    model = desk.model()
    await model.resolve("m")
    (old,) = desk.made
    old.open.clear()
    calls = [asyncio.create_task(model.resolve("m")) for _ in range(2)]
    await until(lambda: old.asked == 3)
    desk.choice = Chosen("openai")
    await asyncio.sleep(SOON)

    assert await model.resolve("m") == "openai|m"
    assert not old.closed
    calls[0].cancel()
    old.open.set()
    assert await calls[1] == "environment|m"
    await until(lambda: old.closed)


async def test_last_choice_stands_while_it_cannot_be_read(desk):
    """The database is away: jobs that need no new choice go on."""
    desk.choice = Chosen("openrouter")
    model = desk.model()
    await model.resolve("m")
    desk.error = ConnectionError("gone")
    await asyncio.sleep(SOON)

    assert await model.resolve("m") == "openrouter|m"
    assert desk.looks == 2


async def test_provider_that_cannot_be_built_leaves_nothing_to_the_last_one(desk):
    """Operators turned away from it: every call fails with the reason, until the new one can be built."""
    model = desk.model()
    await model.resolve("m")
    (old,) = desk.made
    desk.choice, desk.cannot_make = Chosen("openai"), ValueError("Invalid port: '1234v1'")
    await asyncio.sleep(SOON)

    for call in (model.resolve("m"), model.embed(["a"], model="text-embedding-3-small")):
        with pytest.raises(Retryable, match="provider settings cannot be used: ValueError: Invalid port: '1234v1'"):
            await call
    assert (old.asked, old.closed) == (1, True)

    desk.cannot_make = None
    await asyncio.sleep(SOON)
    assert await model.resolve("m") == "openai|m"


async def test_closing_waits_for_the_look_before_what_it_reads_with_is_released(desk):
    """A look that is under way holds a connection."""
    desk.answering.clear()
    model = desk.model()
    call = asyncio.create_task(model.resolve("m"))
    await until(lambda: desk.looking)

    await model.aclose()

    assert desk.released
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_slow_look_holds_nobody_up_for_long(desk):
    """It goes on by itself; callers go on with whom they had."""
    model = desk.model()
    await model.resolve("m")
    desk.answering.clear()
    desk.choice = Chosen("openai")
    await asyncio.sleep(SOON)

    async with asyncio.timeout(5):
        assert await model.resolve("m") == "environment|m"
    assert desk.looks == 2
    desk.answering.set()
    await until(lambda: not desk.looking)
    assert await model.resolve("m") == "openai|m"


async def test_nobody_is_asked_before_the_first_choice_is_known(desk):
    """The environment's provider may be the very one that operators turned away from."""
    desk.error = ConnectionError("gone")
    model = desk.model()

    with pytest.raises(Retryable, match="choice of a provider cannot be followed"):
        await model.resolve("m")
    assert desk.made == []

    desk.error = None
    await asyncio.sleep(SOON)
    assert await model.resolve("m") == "environment|m"


async def test_caller_that_is_cancelled_takes_the_choice_from_nobody(desk):
    """The look belongs to all who wait for it."""
    desk.answering.clear()
    model = desk.model()
    first, second = (asyncio.create_task(model.resolve("m")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    desk.answering.set()

    assert await second == "environment|m"


async def test_vectors_of_a_model_that_is_no_longer_chosen_are_refused(desk):
    """Whoever asked for the name before the switch asks for it again; nobody gets vectors of another model by it."""
    model = desk.model()
    name = await model.embedding_model()
    assert (await model.embed(["a"], model=name)).model == "embedder of environment"
    desk.choice = Chosen("openai")
    await asyncio.sleep(SOON)

    with pytest.raises(Retryable, match="'text-embedding-3-small' now, no longer 'embedder of environment'"):
        await model.embed(["a"], model=name)


async def test_chosen_provider_has_its_own_host_models_and_key():
    """Nothing of what the environment says is sent to it, its key least of all; models alone are the environment's."""
    choices = {
        "lmstudio": Chosen("lmstudio", llm_model="llama", embedding_model="nomic"),
        "openrouter": Chosen("openrouter", api_key="k-1", llm_model="vendor/model"),
        "own": Chosen("lmstudio", base_url="http://gpu.test:8000/v1", embedding_model="bge"),
        "openai": Chosen("openai", api_key="k-2"),
        "models only": Chosen(None, llm_model="llama", embedding_model="nomic"),
        "one model only": Chosen(None, embedding_model="nomic"),
    }
    environment = Environment(
        api_key="env-key", base_url="http://env.test/v1", model="env-model", embedding_model="env-embedder"
    )
    found = {}
    for name, choice in choices.items():
        routing = merged(environment, choice)
        (step,) = routing.path("gpt-3.5-turbo", stage=None, project_id=None).steps
        made = client_of(routing.provider_of(step), options=OPTIONS, gate=Gate())
        model = controlled(look=partial(seen, routing), options=OPTIONS, gate=Gate())
        try:
            embedder = await model.embedding_model()
        except Permanent as error:
            embedder = str(error).partition(":")[0]
        found[name] = (str(made._client.base_url), made._client.api_key, step.model, embedder)  # type: ignore[attr-defined]
        await made.aclose()
        await model.aclose()

    assert found == {
        "lmstudio": ("http://localhost:1234/v1/", "not-needed", "llama", "nomic"),
        "openrouter": ("https://openrouter.ai/api/v1/", "k-1", "vendor/model", "no embedding model is set for https"),
        "own": ("http://gpu.test:8000/v1/", "not-needed", "gpt-3.5-turbo", "bge"),
        "openai": ("https://api.openai.com/v1/", "k-2", "gpt-3.5-turbo", "text-embedding-3-small"),
        "models only": ("http://env.test/v1/", "env-key", "llama", "nomic"),
        "one model only": ("http://env.test/v1/", "env-key", "env-model", "nomic"),
    }


async def seen(routing) -> Seen:
    return Seen(routing)


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        (Chosen("openai", problem="openai_key: no key decrypts it"), "openai_key: no key decrypts it"),
        (Chosen("elsewhere"), "ai_provider must be one of lmstudio, openrouter, openai, offline, got 'elsewhere'"),
        (
            Chosen("lmstudio", base_url="http://localhost:1234v1", embedding_model="bge"),
            "provider settings cannot be used: ValueError: Port could not be cast to integer value as '1234v1'",
        ),
    ],
)
async def test_choice_that_cannot_be_followed_fails_every_call_with_its_reason(choice, line):
    """Rather than go to another provider; jobs try again, for settings are put right a moment later."""
    routing = merged(Environment(), choice)
    model = controlled(look=partial(seen, routing), options=OPTIONS, gate=Gate())
    embedder = routing.routes["default-embeddings"].steps[0].model
    calls: list[Awaitable[object]] = [model.resolve("m"), model.embed(["a"], model=embedder or "m")]
    for call in calls:
        with pytest.raises(Retryable) as refusal:
            await call
        assert isinstance(refusal.value, Unavailable)
        assert line in str(refusal.value)
    await model.aclose()


async def test_key_is_in_no_log(desk, caplog, capsys):
    """Neither when it is followed nor when following fails."""
    caplog.set_level(logging.DEBUG)
    desk.choice = Chosen("openai", api_key="sk-very-secret")
    model = desk.model()
    await model.resolve("m")
    desk.choice = Chosen("openai", api_key="sk-another-very-secret")
    await asyncio.sleep(SOON)
    await model.resolve("m")
    desk.error = ValueError("no")
    await asyncio.sleep(SOON)
    await model.resolve("m")

    said = caplog.text + "".join(capsys.readouterr())
    assert "provider_chosen" in said
    assert "routing_not_followed" in said
    assert "very-secret" not in said
