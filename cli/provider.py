"""Who answers language model calls of a role or a command: routes, what operators chose, what the settings say."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from cli.secret_keys import find_keys
from config.settings import Settings
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.turns import Turns
from workers.llm.answering import Answering, answering
from workers.llm.batch_lane.lane import BatchLane
from workers.llm.controlled import ControlledModel
from workers.llm.kept.postgres_kept import PostgresKept
from workers.llm.ledger.prices import KnownPrices, sellers_of
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate
from workers.llm.ports import Control
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.resuming import causes_of
from workers.llm.routing.routing import Provider, Routing
from workers.llm.routing.tables import Rows, read
from workers.llm.routing.virtual import Environment, merged
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import ProviderChoice, read_choice
from workers.runtime.database import Database, Transaction
from workers.runtime.handler.ports import EmbeddingLimits, LanguageModel
from workers.runtime.operate.waking import wake_jobs

# Admission, the ledger and kept answers have one statement under way at a time, each.
CONNECTIONS = 4


def environment(settings: Settings) -> Environment:
    """Return what the environment says of providers."""
    return Environment(
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        model=settings.llm.model,
        embedding_model=settings.llm.embedding_model,
    )


def answering_of(settings: Settings, choice: ProviderChoice | None, rows: Rows | None = None) -> Answering:
    """Return who answers a process that has these settings, without any secret."""
    return answering(routing_of(settings, choice, rows or Rows()))


def routing_of(settings: Settings, choice: ProviderChoice | None, rows: Rows) -> Routing:
    """Return the providers and routes of a process that has these settings."""
    return merged(environment(settings), choice, providers=rows.providers, routes=rows.routes, bindings=rows.bindings)


async def read_routing(session: Transaction, settings: Settings) -> Seen:
    """Return the providers and routes of now, and the pauses of providers."""
    keyring = Keyring(find_keys(settings))
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    rows = await read(session, decrypt=keyring.decrypt)
    choice = await read_choice(session, keyring=keyring, openai_key=key)
    return Seen(routing_of(settings, choice, rows), rows.pauses)


def provider(settings: Settings, *, database_url: str, name: str) -> LanguageModel:
    """Return the model of a command; nothing is opened before the first call. ``name`` names its Postgres connection.

    Its calls are admitted and in the ledger like those of workers, for no job. An outage that workers have found does
    not hold them back: a person asks once, and learns how it is now.
    """
    return _provider(settings, database_url=database_url, name=name, worker_id=None, gate=Gate()).model


class WorkerProvider(NamedTuple):
    """The model of a worker, the prices of its calls, and what reports who answers now, for ``runtime.workers``."""

    model: ControlledModel
    prices: KnownPrices
    report: Callable[[], Awaitable[dict[str, Any]]]


def worker_provider(settings: Settings, *, database_url: str, name: str, worker_id: UUID) -> WorkerProvider:
    """Return the model of a worker; ``worker_id`` is its row in ``runtime.workers``.

    Its calls are admitted, the ledger and the paid answers are kept, and outages are shared with other processes. It
    has its own connections, so that it waits for no job; nothing is opened before the first call.
    """
    return _provider(settings, database_url=database_url, name=name, worker_id=worker_id, gate=None)


def _provider(
    settings: Settings, *, database_url: str, name: str, worker_id: UUID | None, gate: Gate | None
) -> WorkerProvider:
    """Return a controlled model. Without a ``gate`` outages are shared with other processes."""
    routes = Database(database_url, changed_by=name, pool_size=1)
    calls = Database(database_url, changed_by=name, pool_size=CONNECTIONS)

    async def look() -> Seen:
        async with routes.session() as session:
            return await read_routing(session, settings)

    async def wake(one: Provider) -> None:
        await wake_jobs(calls, causes=causes_of(one))

    prices = KnownPrices(calls, lambda: sellers_of(model.last_routing) if model.last_routing else {})
    admission = PostgresAdmission(calls, worker_id, prices)
    turns = Turns(admission)
    kept = PostgresKept(calls, ledger=admission)

    async def free() -> None:
        async with AsyncExitStack() as closing:
            for close in (routes.close, calls.close, prices.aclose, admission.aclose, kept.aclose):
                closing.push_async_callback(close)

    model = controlled(
        look=look,
        options=options(settings),
        gate=gate or Gate(SharedPauses(routes)),
        control=Control(
            admission=admission,
            turns=turns,
            learn=admission.learn,
            lane=BatchLane(calls, gather=timedelta(seconds=settings.llm.batch_gather_seconds)),
        ),
        kept=kept,
        wake=wake,
        free=free,
    )
    return WorkerProvider(model, prices, model.report)


def options(settings: Settings) -> ClientOptions:
    """Return how the clients of this process ask."""
    llm = settings.llm
    return ClientOptions(
        connect_timeout=llm.connect_timeout_seconds,
        timeout=llm.timeout_seconds,
        max_connections=llm.max_connections,
        concurrency=llm.concurrency,
        embedding_limits=EmbeddingLimits(
            texts=llm.embedding_batch, tokens=llm.embedding_batch_tokens, requests=llm.embedding_concurrency
        ),
    )
