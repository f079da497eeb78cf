"""Find the callers of API keys. The database decides which keys are valid; this process only remembers it briefly."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import structlog

from gateway.callers.fresh import FreshLookup
from workers.runtime.api_keys import hash_of
from workers.runtime.database import Database
from workers.runtime.store.api_keys import FoundKey, authenticate_keys, note_key_use

log = structlog.get_logger(__name__)

# How often the use of one key is written, and how long it may wait for that.
NOTE_SECONDS = 60.0
WRITE_SECONDS = 15.0
CLOSE_SECONDS = 2.0


class ApiKeys:
    """The valid keys of the callers of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lookup: FreshLookup[bytes, FoundKey] = FreshLookup(self._ask)
        # The hash of each key that was valid once, by which it is looked up again when its caller begins a transaction.
        self._hashes: dict[UUID, bytes] = {}
        self._noted_at: dict[UUID, float] = {}
        self._used: set[UUID] = set()

    async def find(self, secret: str) -> FoundKey | None:
        """Return the key if it is valid, at most a second ago; note that it is used."""
        found = await self._find_by_hash(hash_of(secret))
        if found is not None:
            self._note(found.id)
        return found

    async def find_again(self, key_id: UUID) -> FoundKey | None:
        """Return a key that was found before, if it is still valid."""
        key_hash = self._hashes.get(key_id)
        return None if key_hash is None else await self._find_by_hash(key_hash)

    async def note_use(self) -> None:
        """Write when the keys were used, in bulk, until this task is cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write_use()

    async def write_use(self) -> None:
        """Write the use of the keys now. If Postgres does not answer, the next call writes it."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with self._database.kernel() as conn:
                await note_key_use(conn, sorted(used))
        except asyncio.CancelledError:
            self._used |= used
            raise
        except Exception as error:  # noqa: BLE001 - a missing time must not stop the door
            self._used |= used
            log.warning("key_use_not_written", error=str(error))

    async def close(self) -> None:
        """Stop looking keys up; write when they were used, if Postgres answers soon."""
        await self._lookup.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.write_use()

    async def _find_by_hash(self, key_hash: bytes) -> FoundKey | None:
        found = await self._lookup.get(key_hash)
        if found is not None:
            self._hashes[found.id] = key_hash
        return found

    async def _ask(self, hashes: Sequence[bytes]) -> dict[bytes, FoundKey]:
        async with self._database.kernel() as conn:
            return await authenticate_keys(conn, hashes)

    def _note(self, key_id: UUID) -> None:
        now = time.monotonic()
        if now - self._noted_at.get(key_id, -NOTE_SECONDS) >= NOTE_SECONDS:
            self._noted_at[key_id] = now
            self._used.add(key_id)
