"""Where deliveries go and which secrets sign them: read for many runs together, and known for a second.

Code that runs once per delivery asks Postgres together with the other runs of its process.
"""

import asyncio
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncSession

from workers.outbound.signatures import new_secret
from workers.runtime.database import raw_of
from workers.runtime.handler.outside import Keyring

# An endpoint that was changed is used as it was for at most this long.
KNOWN_SECONDS = 1.0
GATHER_SECONDS = 0.003

OpenSession = Callable[[], AbstractAsyncContextManager[AsyncSession]]

_READ = b"""
    SELECT id, owner_id, url, secret, CASE WHEN previous_until > clock_timestamp() THEN previous_secret END,
           disabled_reason, consecutive_failures
      FROM notifications.endpoints
     WHERE id = ANY (%(endpoints)s::uuid[])
        OR (url IS NULL AND (owner_id = ANY (%(owners)s::uuid[]) OR (%(nobody)s AND owner_id IS NULL)))"""
_ADD = b"""
    INSERT INTO notifications.endpoints (owner_id, secret)
    SELECT * FROM unnest(%(owners)s::uuid[], %(secrets)s::text[]) ON CONFLICT DO NOTHING"""


class Key(NamedTuple):
    """An endpoint by its id, or the one-off addresses of an owner (None: of the operators)."""

    endpoint_id: UUID | None
    owner_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An endpoint. ``tokens`` are its encrypted secrets, the newest first; ``url`` is None for one-off addresses."""

    url: str | None
    tokens: tuple[str, ...] = field(repr=False)
    disabled_reason: str | None = None
    failures: int = 0


class Targets:
    """Reads the endpoints of the deliveries of one process."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[float, Target | None]] = {}
        self._asked: dict[Key, asyncio.Future[Target | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key: Key, session: OpenSession, keyring: Keyring) -> Target | None:
        """Return the target of ``key``; None if there is no such endpoint.

        An owner's secret for one-off addresses is made at its first use. Raise a Refusal if there is no key for that.
        """
        at, found = self._known.get(key, (float("-inf"), None))
        if time.monotonic() - at < KNOWN_SECONDS:
            return found
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all(session, keyring))
        return await asyncio.shield(future)

    def forget(self, key: Key) -> None:
        """Read ``key`` again at its next use."""
        self._known.pop(key, None)

    async def _read_all(self, session: OpenSession, keyring: Keyring) -> None:
        try:
            while True:
                await asyncio.sleep(GATHER_SECONDS)
                asked, self._asked = self._asked, {}
                if not asked:
                    return
                try:
                    found = await _read(asked.keys(), session, keyring)
                except Exception as error:  # noqa: BLE001 - each run that asked gets it
                    for future in asked.values():
                        future.set_exception(error)
                    continue
                now = time.monotonic()
                self._known = {key: one for key, one in self._known.items() if now - one[0] < KNOWN_SECONDS}
                for key, future in asked.items():
                    self._known[key] = (now, found.get(key))
                    future.set_result(found.get(key))
        finally:
            self._reading = None


_OF_LOOP: WeakKeyDictionary[AbstractEventLoop, Targets] = WeakKeyDictionary()


def targets_of_process() -> Targets:
    """Return the targets that all runs on this event loop share."""
    loop = asyncio.get_running_loop()
    return _OF_LOOP.setdefault(loop, Targets())


async def _read(keys: Collection[Key], session: OpenSession, keyring: Keyring) -> Mapping[Key, Target]:
    """Return the targets of ``keys`` that exist, after making those of owners without a secret."""
    found = await _select(keys, session)
    if missing := [key for key in keys if key.endpoint_id is None and key not in found]:
        values = {
            "owners": [key.owner_id for key in missing],
            "secrets": [keyring.encrypt(new_secret()) for _ in missing],
        }
        async with session() as opened:
            await (await raw_of(opened)).execute(_ADD, values)
        found = {**found, **await _select(missing, session)}
    return found


async def _select(keys: Collection[Key], session: OpenSession) -> dict[Key, Target]:
    owners = [key.owner_id for key in keys if key.endpoint_id is None]
    values: dict[str, Any] = {
        "endpoints": [key.endpoint_id for key in keys if key.endpoint_id],
        "owners": [owner for owner in owners if owner],
        "nobody": None in owners,
    }
    async with session() as opened:
        rows = await (await (await raw_of(opened)).execute(_READ, values)).fetchall()
    return {
        Key(None, owner_id) if url is None else Key(id_, None): Target(
            url=url,
            tokens=(secret, previous) if previous else (secret,),
            disabled_reason=reason,
            failures=failures,
        )
        for id_, owner_id, url, secret, previous, reason, failures in rows
    }
