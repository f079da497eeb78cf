"""Who changes an assessment and why, as its audit trail keeps it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import storable

_SWAP = text(
    "SELECT name, coalesce(current_setting('gristmill.' || name, true), '') AS before, "
    "set_config('gristmill.' || name, value, true) FROM json_each_text(CAST(:said AS json)) AS s (name, value)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the audit row tells beside the transition; what is None is what the session says, if it says anything."""

    changed_by: str | None = None
    change_reason: str | None = None
    change_action: str | None = None
    context: Mapping[str, Any] | None = None
    ip_address: str | None = None
    user_agent: str | None = None

    def settings(self) -> dict[str, str]:
        """Return the ``gristmill.*`` settings that say it; raise InvalidChange for what they cannot hold."""
        given = {name: getattr(self, name) for name in self.__slots__}
        for name, value in given.items():
            storable(value, name=name)
        if self.context is not None:
            given["context"] = json.dumps(self.context)
        return {name: value for name, value in given.items() if value is not None}


NOTHING = Said()


@asynccontextmanager
async def saying(session: AsyncSession, said: Said = NOTHING, *, owner: UUID | None = None) -> AsyncIterator[None]:
    """Say it for the changes of this block only; afterwards the transaction says again what it said before.

    With ``owner`` the block acts for that user; without, for whom the transaction acts already.
    """
    settings = {**said.settings(), **({"user_id": str(owner)} if owner else {})}
    if not settings:
        yield
        return
    before = {row.name: row.before for row in await session.execute(_SWAP, {"said": json.dumps(settings)})}
    yield
    await session.execute(_SWAP, {"said": json.dumps(before)})
