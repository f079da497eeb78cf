"""Choose who answers: the configured OpenAI-compatible server, or the offline evaluator where nothing is configured."""

from workers.llm.offline import OfflineEvaluator
from workers.runtime.ports import LanguageModel

OPENAI_URL = "https://api.openai.com/v1"
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
) -> LanguageModel:
    """Return the provider for these settings; connections open at first use, on the event loop that uses them.

    With neither key nor base URL the offline evaluator answers. A configured provider that fails is never replaced
    by it: its errors are the job's. ``model`` is asked where a job keeps the tables' default name. ``timeout`` bounds
    one whole answer and ``connect_timeout`` a connection, both in seconds.
    """
    if not api_key and not base_url:
        return OfflineEvaluator()
    from workers.llm.compatible import CompatibleModel  # noqa: PLC0415 - importing openai costs a second

    return CompatibleModel(
        api_key=api_key or PLACEHOLDER_KEY,
        base_url=base_url or OPENAI_URL,
        model=model,
        connect_timeout=connect_timeout,
        timeout=timeout,
        max_connections=max_connections,
    )
