"""Who changes an assessment and why, as its audit trail keeps it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

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
        """Return the ``gristmill.*`` settings that say it."""
        given = {name: getattr(self, name) for name in self.__slots__}
        if self.context is not None:
            given["context"] = json.dumps(self.context)
        return {name: value for name, value in given.items() if value is not None}


NOTHING = Said()


@asynccontextmanager
async def saying(session: AsyncSession, said: Said) -> AsyncIterator[None]:
    """Say it for the changes of this block only; afterwards the transaction says again what it said before."""
    settings = said.settings()
    if not settings:
        yield
        return
    before = {row.name: row.before for row in await session.execute(_SWAP, {"said": json.dumps(settings)})}
    yield
    await session.execute(_SWAP, {"said": json.dumps(before)})
