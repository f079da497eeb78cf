"""How many calls of a kind could be admitted now, else until when not and why; nothing is reserved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from uuid import UUID

from pydantic_core import to_json

from workers.llm.admission.refusals import refusal_of
from workers.llm.calls import Lane, NotAdmittedError
from workers.runtime.database import Raw

_CAPACITY = "SELECT place, calls, wait, cause FROM llm.capacity(%(paths)s::jsonb)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Calls alike: of whom, for whom, and how large one is. Without an owner, what each owner may is not looked at."""

    provider: str
    model: str
    stage: str | None = None
    owner_id: UUID | None = None
    project_id: UUID | None = None
    profile_id: UUID | None = None
    lane: Lane = "normal"
    input: int = 1
    output: int = 1
    usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """``calls``: how many could be admitted now, None for any number. ``refusal`` is the limit that is closest.

    If no call could be admitted, ``refusal`` says why and ``refusal.delay`` for how long.
    """

    calls: int | None
    refusal: NotAdmittedError | None


async def capacity_of(conn: Raw, paths: Sequence[Path]) -> list[Capacity]:
    """Return for each of ``paths`` how many calls could be admitted now."""
    if not paths:
        return []
    cursor = await conn.execute(_CAPACITY, {"paths": to_json([asdict(path) for path in paths]).decode()})
    found = [Capacity(None, None)] * len(paths)
    for place, calls, wait, cause in await cursor.fetchall():
        refusal = None if cause is None else refusal_of(cause | {"wait": wait})
        found[place - 1] = Capacity(None if calls is None else int(calls), refusal)
    return found
