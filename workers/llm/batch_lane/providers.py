"""Which form of batches a provider of the routes has. Pure."""

from urllib.parse import urlsplit

from workers.llm.batch_lane.apis import BatchProvider
from workers.llm.calls import NotAdmittedError
from workers.llm.controlled import PAUSED_DELAY
from workers.llm.provider import PLACEHOLDER_KEY
from workers.llm.routing.routing import Provider, Routing
from workers.runtime.handler.errors import Unavailable

OPENROUTER_HOST = "openrouter.ai"


def batch_provider(routing: Routing, name: str) -> BatchProvider | None:
    """Return a provider as batches need it; None for one that is gone or that answers offline.

    Raise Unavailable while it cannot be used, NotAdmittedError while operators paused it: its batches wait.
    """
    provider = routing.providers.get(name)
    if provider is None or provider.is_offline:
        return None
    if provider.problem is not None:
        raise Unavailable(f"provider {name} cannot be used: {provider.problem}", certain=True)
    if provider.paused_at is not None:
        raise NotAdmittedError(
            f"provider {name} is paused ({provider.paused_reason}); `gristmill llm resume {name}`",
            delay=PAUSED_DELAY,
            limit=f"pause of provider {name}",
        )
    assert provider.base_url is not None
    return BatchProvider(
        name=name,
        kind=_form(provider),
        base_url=provider.base_url,
        api_key=provider.api_key or PLACEHOLDER_KEY,
    )


def _form(provider: Provider) -> str:
    host = urlsplit(provider.base_url or "").hostname or ""
    return "openrouter" if host == OPENROUTER_HOST or host.endswith(f".{OPENROUTER_HOST}") else provider.kind
