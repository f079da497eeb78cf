"""What people do with a provider: pause it, and ask it again at once. Use-cases for the doors."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.llm.routing.routing import Provider, Routing
from workers.runtime.actor import Actor, acting
from workers.runtime.handler.errors import one_line
from workers.runtime.refusals import Conflict, NotFound, Problem, Refusal, quoted

LONGEST_REASON = 500

_PAUSE = text("""
    UPDATE llm.providers SET paused_at = coalesce(paused_at, now()), paused_reason = :reason WHERE name = :name
    RETURNING name""")
_RESUME = text("""
    UPDATE llm.providers AS p SET paused_at = NULL, paused_reason = NULL
      FROM llm.providers AS old
     WHERE p.name = :name AND old.name = p.name AND p.paused_at IS NOT NULL RETURNING old.paused_reason""")
_END = text("""
    DELETE FROM runtime.provider_pauses
     WHERE provider = :key OR provider = :server OR starts_with(provider, :server || '|') RETURNING provider, reason""")

# Has the jobs that wait for a provider go on, within the session's transaction; returns how many.
WakeJobs = Callable[[AsyncSession, str], Awaitable[int]]


class UnknownProviderError(NotFound):
    """No provider has that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What resuming a provider ended, and how many jobs go on. ``reasons`` say why it was not asked."""

    provider: str
    reasons: Sequence[str]
    woken: int


async def pause_provider(session: AsyncSession, name: str, reason: str, actor: Actor, *, routing: Routing) -> None:
    """Have nobody ask a provider until it is resumed; its jobs wait, and spend no attempt.

    Raise UnknownProviderError; Conflict for one without a row.
    """
    if not reason.strip() or len(reason) > LONGEST_REASON:
        raise Refusal(Problem("reason", f"must have 1 to {LONGEST_REASON} characters", quoted(reason)))
    provider = known_provider(routing, name)
    if provider.origin != "table":
        remedy = "`gristmill settings set ai_provider=…` chooses another"
        raise Conflict(f"provider {name!r} has no row and cannot be paused", remedy=remedy)
    async with acting(session, actor):
        await session.execute(_PAUSE, {"name": name, "reason": one_line(reason)})


async def resume_provider(
    session: AsyncSession, name: str, actor: Actor, *, routing: Routing, wake: WakeJobs | None = None
) -> Resumed:
    """Have a provider asked again at once: by operators' pause, by its outages, by its key's quota.

    Processes follow within seconds. Raise UnknownProviderError.
    """
    provider = known_provider(routing, name)
    async with acting(session, actor):
        paused = (await session.scalars(_RESUME, {"name": name})).all()
        ended = await session.execute(_END, {"key": provider.key_name, "server": provider.server})
        reasons = [*paused, *(row.reason for row in ended)]
        woken = await wake(session, name) if wake is not None else 0
    return Resumed(provider=name, reasons=reasons, woken=woken)


def known_provider(routing: Routing, name: str) -> Provider:
    """Return the provider of that name; raise UnknownProviderError, which names all."""
    try:
        return routing.providers[name]
    except KeyError:
        known = ", ".join(sorted(routing.providers))
        raise UnknownProviderError(f"provider {quoted(name)} is not known; providers: {known}") from None
