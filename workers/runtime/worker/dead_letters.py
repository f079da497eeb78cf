"""Messages that the Celery door refused: keep each with its reason, and count what comes again.

Knows messages as their bytes and what was read of them; Celery is the transport's. People look at them, and replay
them, by :mod:`workers.runtime.operate.dead_letters`.
"""

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

import structlog

from workers.runtime.database import Database, is_database_away
from workers.runtime.handler.errors import describe, one_line
from workers.runtime.refusals import without_value
from workers.runtime.store import dead_letters as store
from workers.runtime.store.dead_letters import REASON_CHARACTERS

log = structlog.get_logger(__name__)

KEPT_BYTES = 65_536
SHOWN_CHARACTERS = 8_000
NAME_CHARACTERS = 255
# Beyond so many messages only their reasons are kept and counted: a flood must not fill the database.
MOST_KEPT = 10_000
COUNT_SECONDS = 1.0
FULL_CHECK_SECONDS = 5.0
# Messages of which a process remembers that they are kept, and those that wait to be while Postgres is away.
MOST_REMEMBERED, MOST_WAITING = 10_000, 1_000


@dataclass(frozen=True)
class DeadLetter:
    """A refused message as far as it could be read, and why it was refused."""

    reason: str
    body: bytes
    task: str | None = None
    message_id: str | None = None
    queue: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None

    @cached_property
    def fingerprint(self) -> bytes:
        """What messages of the same content have in common, whatever their ids."""
        digest = hashlib.sha256()
        for part in (self.task, self.queue, self.content_type, self.content_encoding):
            digest.update(repr(part).encode("utf-8", "backslashreplace") + b"\0")
        digest.update(self.body)
        return digest.digest()

    @property
    def shown_id(self) -> str:
        """The message's own id, or one that follows from its content."""
        return self.message_id or str(UUID(bytes=self.fingerprint[:16]))

    def reason_only(self) -> "DeadLetter":
        """Return what is kept of it where no more messages are: that something was refused for this reason."""
        return DeadLetter(without_value(self.reason), b"", self.task, queue=self.queue)

    def values(self) -> dict[str, Any]:
        """Return the columns of its row, each within its bound and without what Postgres cannot store."""
        arguments, keywords = _read(self.body)
        return {
            "fingerprint": self.fingerprint,
            "reason": _text(self.reason, REASON_CHARACTERS) or "no reason was given",
            "task": _text(self.task, NAME_CHARACTERS),
            "message_id": _text(self.message_id, NAME_CHARACTERS),
            "queue": _text(self.queue, NAME_CHARACTERS),
            "content_type": _text(self.content_type, 100),
            "content_encoding": _text(self.content_encoding, 50),
            "arguments": _json(arguments),
            "keywords": _json(keywords),
            "body": self.body[:KEPT_BYTES],
            "size": len(self.body),
        }


def _text(value: str | None, most: int) -> str | None:
    return None if value is None else one_line(str(value))[:most]


def _json(value: object) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value)[:SHOWN_CHARACTERS]
    except (ValueError, TypeError, RecursionError):
        return None


def _read(body: bytes) -> tuple[Any, Any]:
    """Return the arguments and keywords of a message's body, or two times None for what is no such body."""
    try:
        content = json.loads(body)
        arguments, keywords = content[:2]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None, None
    return arguments, keywords


@dataclass(slots=True)
class _Repeats:
    """How often a kept message came again since that was last written."""

    count: int = 0
    message_id: str | None = None


class DeadLetters:
    """Keeps refused messages for one worker process, on its loop.

    The first of each content is written before :meth:`keep` returns; what comes again is counted, and written once a
    second. ``remembered`` is of how many contents it knows that they are kept.
    """

    def __init__(self, database: Database, *, remembered: int = MOST_REMEMBERED) -> None:
        self._database = database
        self._most_remembered = remembered
        self._known: dict[bytes, _Repeats] = {}
        self._waiting = 0
        self._is_full = False
        self._looked_at = 0.0

    async def keep(self, letter: DeadLetter) -> None:
        """Return once the message is kept, or one like it; waits while Postgres is away."""
        if self._count(letter):
            return
        if self._waiting >= MOST_WAITING:
            log.error("dead_letter_dropped", reason=without_value(letter.reason), rule="Postgres is away for too long")
            return
        self._waiting += 1
        try:
            await self._write(letter)
        finally:
            self._waiting -= 1

    def _count(self, letter: DeadLetter) -> bool:
        repeats = self._known.get(letter.fingerprint)
        if repeats is None:
            return False
        repeats.count += 1
        repeats.message_id = letter.message_id or repeats.message_id
        return True

    async def _write(self, letter: DeadLetter) -> None:
        while True:
            try:
                if await self._full():
                    letter = letter.reason_only()
                    if self._count(letter):
                        return
                async with self._database.session() as session:
                    await store.put(session, letter.values())
            except Exception as error:
                if not is_database_away(error):
                    log.exception("dead_letter_lost", reason=without_value(letter.reason))
                    return
                await asyncio.sleep(1.0)
            else:
                break
        # Another of this content may have been written meanwhile, and counted since.
        self._known.setdefault(letter.fingerprint, _Repeats())
        if len(self._known) > self._most_remembered:
            self._forget_one()

    def _forget_one(self) -> None:
        """Forget the oldest of which nothing is to be counted: it is looked up when it comes again."""
        for fingerprint, repeats in self._known.items():
            if not repeats.count:
                del self._known[fingerprint]
                return

    async def _full(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= FULL_CHECK_SECONDS:
            self._looked_at = now
            async with self._database.session() as session:
                self._is_full = await store.has_at_least(session, MOST_KEPT)
        return self._is_full

    async def run(self) -> None:
        """Write once a second what came again."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            try:
                await self.flush()
            except Exception as error:
                if not is_database_away(error):
                    raise
                log.warning("dead_letters_wait_for_database", error=describe(error))

    async def flush(self) -> None:
        """Write what came again. What somebody has deleted meanwhile is kept anew when it comes next."""
        more = {one: (repeats.count, repeats.message_id) for one, repeats in self._known.items() if repeats.count}
        if not more:
            return
        async with self._database.session() as session:
            kept = await store.count_more(session, more)
        for fingerprint, (count, _) in more.items():
            if fingerprint not in kept:
                self._known.pop(fingerprint, None)
            elif repeats := self._known.get(fingerprint):
                repeats.count -= count
