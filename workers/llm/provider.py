"""Choose who answers: the configured OpenAI-compatible server, or the offline evaluator where nothing is configured.

What operators choose while everything runs comes before what is configured.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from workers.llm.offline import OfflineEvaluator
from workers.llm.pauses import Gate
from workers.llm.switching import Choice, Choose, SwitchingModel, Unusable
from workers.runtime.handler.ports import EmbeddingLimits, LanguageModel

OPENAI_URL = "https://api.openai.com/v1"
# Where each provider answers unless a choice says otherwise.
HOSTS = {"lmstudio": "http://localhost:1234/v1", "openrouter": "https://openrouter.ai/api/v1", "openai": OPENAI_URL}
# Local servers need no key, but the client insists on one.
PLACEHOLDER_KEY = "not-needed"


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
    choose: Choose | None = None,
    release: Callable[[], Awaitable[None]] | None = None,
    gate: Gate | None = None,
) -> LanguageModel:
    """Return the provider for these settings; connections open at first use, on the event loop that uses them.

    With neither key nor base URL the offline evaluator answers. A configured provider that fails is never replaced
    by it: its errors are the job's. ``model`` is asked where a job keeps the tables' default name. ``timeout`` bounds
    one whole answer and ``connect_timeout`` a connection, both in seconds; no more than ``concurrency`` questions are
    with the provider at once. With ``choose``, these settings hold as long as it returns None; ``release`` is called
    when the provider is closed. ``gate`` keeps calls from a provider that is away; without one, this process has its
    own.
    """
    gate = gate or Gate()

    def compatible(
        *, api_key: str | None, base_url: str, model: str | None, embedding_model: str | None
    ) -> LanguageModel:
        from workers.llm.compatible import CompatibleModel  # noqa: PLC0415 - importing openai costs a second

        return CompatibleModel(
            api_key=api_key or PLACEHOLDER_KEY,
            base_url=base_url,
            model=model,
            embedding_model=embedding_model,
            embedding_limits=embedding_limits or EmbeddingLimits(),
            connect_timeout=connect_timeout,
            timeout=timeout,
            max_connections=max_connections,
            concurrency=concurrency,
            gate=gate,
        )

    def configured(*, chosen_model: str | None = None, chosen_embedding_model: str | None = None) -> LanguageModel:
        if not api_key and not base_url:
            return OfflineEvaluator()
        return compatible(
            api_key=api_key,
            base_url=base_url or OPENAI_URL,
            model=chosen_model or model,
            embedding_model=chosen_embedding_model or embedding_model,
        )

    if choose is None:
        return configured()
    return SwitchingModel(choose=choose, make=partial(_made, configured, compatible), release=release)


def _made(
    configured: Callable[..., LanguageModel], compatible: Callable[..., LanguageModel], choice: Choice | None
) -> LanguageModel:
    """Return the provider that ``choice`` names; of what is configured, it inherits neither key, host nor model.

    One that names models only is the configured provider's, with these.
    """
    if choice is None:
        return configured()
    if choice.problem:
        return Unusable(choice.problem)
    if choice.provider is None:
        return configured(chosen_model=choice.llm_model, chosen_embedding_model=choice.embedding_model)
    if choice.provider == "offline":
        return OfflineEvaluator()
    host = choice.base_url or HOSTS.get(choice.provider)
    if host is None:
        return Unusable(f"ai_provider must be one of {', '.join(HOSTS)}, offline, got {choice.provider!r}")
    return compatible(
        api_key=choice.api_key, base_url=host, model=choice.llm_model, embedding_model=choice.embedding_model
    )
