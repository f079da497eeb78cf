"""Who answers language model calls of a role or a command: routes, what operators chose, what the settings say."""

from collections.abc import Awaitable, Callable
from typing import Any

from config.settings import Settings, keys_of
from workers.llm.answering import Answering, answering
from workers.llm.controlled import ControlledModel
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.routing import Routing
from workers.llm.routing.tables import Rows, read
from workers.llm.routing.virtual import Environment, merged
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import ProviderChoice, read_choice
from workers.runtime.database import Database, Transaction
from workers.runtime.handler.ports import EmbeddingLimits, LanguageModel


def environment(settings: Settings) -> Environment:
    """Return what the environment says of providers."""
    return Environment(
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        model=settings.llm.model,
        embedding_model=settings.llm.embedding_model,
    )


def answers(settings: Settings, choice: ProviderChoice | None, rows: Rows | None = None) -> Answering:
    """Return who answers a process that has these settings, without any secret."""
    return answering(routing_of(settings, choice, rows or Rows()))


def routing_of(settings: Settings, choice: ProviderChoice | None, rows: Rows) -> Routing:
    """Return the providers and routes of a process that has these settings."""
    return merged(environment(settings), choice, providers=rows.providers, routes=rows.routes, bindings=rows.bindings)


async def read_routing(session: Transaction, settings: Settings) -> Seen:
    """Return the providers and routes of now, and the pauses of providers."""
    keyring = Keyring(keys_of(settings))
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    rows = await read(session, decrypt=keyring.decrypt)
    choice = await read_choice(session, keyring=keyring, openai_key=key)
    return Seen(routing_of(settings, choice, rows), rows.pauses)


def provider(settings: Settings, *, database_url: str, name: str, shares_pauses: bool = False) -> LanguageModel:
    """Return the model; nothing is opened before the first call. ``name`` is the name of its Postgres connection.

    With ``shares_pauses`` it does not call a provider that another worker process found to be away, and it reports
    such a provider to the others. It has its own connection, so that it reads the routes without waiting for a job.
    """
    return reporting_provider(settings, database_url=database_url, name=name, shares_pauses=shares_pauses)[0]


def reporting_provider(
    settings: Settings, *, database_url: str, name: str, shares_pauses: bool = False
) -> tuple[ControlledModel, Callable[[], Awaitable[dict[str, Any]]]]:
    """Return the model, and a function that reports which provider answers now, for ``runtime.workers``."""
    database = Database(database_url, changed_by=name, pool_size=1)

    async def look() -> Seen:
        async with database.session() as session:
            seen = await read_routing(session, settings)
        return seen if shares_pauses else Seen(seen.routing)

    model = controlled(
        look=look,
        options=options(settings),
        gate=Gate(SharedPauses(database)) if shares_pauses else Gate(),
        free=database.close,
    )
    return model, model.report


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
