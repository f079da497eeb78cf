"""Ask a provider again at once, whatever kept it from being asked. A use-case for the doors."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.llm.routing.routing import Provider, Routing
from workers.runtime.actor import Actor, acting
from workers.runtime.refusals import NotFound, quoted

_RESUME = text("""
    UPDATE llm.providers AS p SET paused_at = NULL, paused_reason = NULL
      FROM llm.providers AS old
     WHERE p.name = :name AND old.name = p.name AND p.paused_at IS NOT NULL RETURNING old.paused_reason""")
_END = text("""
    DELETE FROM runtime.provider_pauses
     WHERE provider = :key OR provider = :server OR starts_with(provider, :server || '|') RETURNING provider, reason""")


class UnknownProviderError(NotFound):
    """No provider has that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What resuming a provider ended, and how many jobs go on. ``reasons`` say why it was not asked.

    ``causes`` are what the reasons of its snoozed jobs contain.
    """

    provider: str
    reasons: Sequence[str]
    causes: Sequence[str]
    woken: int = 0


def causes_of(provider: Provider) -> list[str]:
    """Return what the reasons of jobs contain that were snoozed because of ``provider``. Pure."""
    return [f"provider {name}" for name in (provider.name, provider.server, provider.key_name) if name]


async def resume_provider(session: AsyncSession, name: str, actor: Actor, *, routing: Routing) -> Resumed:
    """End the pauses of a provider: its operators', those of its server and models, and that of its key.

    Processes follow within seconds. Raise UnknownProviderError.
    """
    if (provider := routing.providers.get(name)) is None:
        known = ", ".join(sorted(routing.providers))
        raise UnknownProviderError(f"provider {quoted(name)} is not known; providers: {known}")
    async with acting(session, actor):
        paused = (await session.scalars(_RESUME, {"name": name})).all()
        ended = await session.execute(_END, {"key": provider.key_name, "server": provider.server})
        reasons = [*paused, *(row.reason for row in ended)]
    return Resumed(provider=name, reasons=reasons, causes=causes_of(provider))
