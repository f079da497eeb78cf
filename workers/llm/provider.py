"""Make who answers: clients of servers, the offline evaluator, and the model that all handlers get."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from workers.llm.controlled import ControlledModel, Wake
from workers.llm.kept import Kept
from workers.llm.names import public_url
from workers.llm.offline import OfflineEvaluator
from workers.llm.pauses import Gate
from workers.llm.ports import Control
from workers.llm.routing.following import LOOK_SECONDS, Look
from workers.llm.routing.routing import Provider
from workers.llm.routing.virtual import HOSTS as HOSTS  # noqa: PLC0414 - the doctor asks there
from workers.llm.routing.virtual import OPENAI_URL as OPENAI_URL  # noqa: PLC0414 - likewise
from workers.runtime.handler.ports import EmbeddingLimits, LanguageModel

if TYPE_CHECKING:
    from workers.llm.provider_calls import ProviderCalls

# Local servers need no key, but the client insists on one.
PLACEHOLDER_KEY = "not-needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How the clients of a process ask.

    ``timeout`` bounds one whole answer and ``connect_timeout`` a connection, both in seconds. Of one provider no more
    than ``concurrency`` questions are under way at once.
    """

    connect_timeout: float
    timeout: float
    max_connections: int
    concurrency: int = 1_000
    embedding_limits: EmbeddingLimits = field(default_factory=EmbeddingLimits)


def controlled(
    *,
    look: Look,
    options: ClientOptions,
    gate: Gate,
    control: Control | None = None,
    kept: Kept | None = None,
    wake: Wake | None = None,
    free: Callable[[], Awaitable[None]] | None = None,
    look_seconds: float = LOOK_SECONDS,
) -> ControlledModel:
    """Return the model for all handlers of a process. Connections open at first use, on the loop that uses them.

    ``look`` reads who may be asked. ``control`` admits the calls and keeps the ledger of them; without it nothing
    limits them. ``kept`` has the answers that were paid for.
    """
    return ControlledModel(
        look=look,
        make=partial(client_of, options=options, gate=gate, control=control),
        gate=gate,
        embedding_limits=options.embedding_limits,
        kept=kept,
        cached=None if control is None else control.admission,
        wake=wake,
        free=free,
        look_seconds=look_seconds,
    )


def client_of(
    provider: Provider, *, options: ClientOptions, gate: Gate, control: Control | None = None
) -> LanguageModel:
    """Return the client of one provider."""
    if provider.is_offline:
        return OfflineEvaluator()
    from workers.llm.provider_calls import ProviderCalls  # noqa: PLC0415 - importing openai costs a second

    assert provider.base_url is not None
    calls = ProviderCalls(
        name=provider.name,
        server=public_url(provider.base_url),
        key=provider.key_name,
        gate=gate,
        timeout=options.timeout,
        concurrency=options.concurrency,
        embedding_concurrency=options.embedding_limits.requests,
        control=control,
    )
    return _compatible(
        provider.base_url, provider.api_key, options=options, model=None, embedding_model=None, gate=gate, calls=calls
    )


def build(
    *,
    api_key: str | None,
    base_url: str | None,
    model: str | None,
    connect_timeout: float,
    timeout: float,
    max_connections: int,
    concurrency: int = 1_000,
    embedding_model: str | None = None,
    embedding_limits: EmbeddingLimits | None = None,
    gate: Gate | None = None,
) -> LanguageModel:
    """Return a client alone, without routes and limits, as diagnoses and tests want it.

    With neither key nor base URL the offline evaluator answers. ``model`` is asked where a job keeps the tables'
    default name. ``gate`` keeps calls from a provider that is away; without one, this client has its own.
    """
    if not api_key and not base_url:
        return OfflineEvaluator()
    options = ClientOptions(
        connect_timeout=connect_timeout,
        timeout=timeout,
        max_connections=max_connections,
        concurrency=concurrency,
        embedding_limits=embedding_limits or EmbeddingLimits(),
    )
    return _compatible(
        base_url or OPENAI_URL, api_key, options=options, model=model, embedding_model=embedding_model, gate=gate
    )


def _compatible(
    base_url: str,
    api_key: str | None,
    *,
    options: ClientOptions,
    model: str | None,
    embedding_model: str | None,
    gate: Gate | None,
    calls: "ProviderCalls | None" = None,
) -> LanguageModel:
    from workers.llm.compatible import CompatibleModel  # noqa: PLC0415 - importing openai costs a second

    return CompatibleModel(
        api_key=api_key or PLACEHOLDER_KEY,
        base_url=base_url,
        model=model,
        embedding_model=embedding_model,
        embedding_limits=options.embedding_limits,
        connect_timeout=options.connect_timeout,
        timeout=options.timeout,
        max_connections=options.max_connections,
        concurrency=options.concurrency,
        gate=gate,
        calls=calls,
    )
