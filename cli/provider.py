"""The provider that answers language model calls: the one that operators chose, else the one of the settings."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from config.settings import Settings, keys_of
from workers.llm.answering import Answering, answering
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate
from workers.llm.provider import build
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import ProviderChoice, read_choice
from workers.runtime.database import Database
from workers.runtime.handler.ports import EmbeddingLimits, LanguageModel


def answering_of(settings: Settings, choice: ProviderChoice | None) -> Answering:
    """Return which provider answers a process with these settings, without secrets."""
    return answering(
        choice=choice,
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        model=settings.llm.model,
        embedding_model=settings.llm.embedding_model,
    )


def provider(settings: Settings, *, database_url: str, name: str, shares_pauses: bool = False) -> LanguageModel:
    """Return the provider; nothing is opened before the first call. ``name`` is the name of its Postgres connection.

    With ``shares_pauses`` it does not call a provider that another worker process found to be away, and it reports
    such a provider to the others. It has its own connection, so that it reads the choice without waiting for a job.
    """
    return reporting_provider(settings, database_url=database_url, name=name, shares_pauses=shares_pauses)[0]


def reporting_provider(
    settings: Settings, *, database_url: str, name: str, shares_pauses: bool = False
) -> tuple[LanguageModel, Callable[[], Awaitable[dict[str, Any]]]]:
    """Return the provider, and a function that reports which provider answers now, for ``runtime.workers``."""
    database = Database(database_url, changed_by=name, pool_size=1)
    keyring = Keyring(keys_of(settings))
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    llm = settings.llm

    async def choose() -> ProviderChoice | None:
        async with database.session() as session:
            return await read_choice(session, keyring=keyring, openai_key=key)

    async def report() -> dict[str, Any]:
        return asdict(answering_of(settings, await choose()))

    model = build(
        api_key=key,
        base_url=settings.openai_base_url,
        model=llm.model,
        connect_timeout=llm.connect_timeout_seconds,
        timeout=llm.timeout_seconds,
        max_connections=llm.max_connections,
        concurrency=llm.concurrency,
        embedding_model=llm.embedding_model,
        embedding_limits=EmbeddingLimits(
            texts=llm.embedding_batch, tokens=llm.embedding_batch_tokens, requests=llm.embedding_concurrency
        ),
        choose=choose,
        release=database.close,
        gate=Gate(SharedPauses(database)) if shares_pauses else None,
    )
    return model, report
