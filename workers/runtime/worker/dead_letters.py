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
from workers.runtime.operate.requests import DOOR, MOST_MESSAGE_BYTES, keyed, without_signature
from workers.runtime.refusals import without_value
from workers.runtime.store import dead_letters as store
from workers.runtime.store.dead_letters import MAX_REASON_CHARACTERS

log = structlog.get_logger(__name__)

# Of a message that is larger than the door takes, the beginning; any other is kept whole, for a replay.
CUT_BYTES = 65_536
SHOWN_CHARACTERS = 8_000
NAME_CHARACTERS = 255
# Beyond so many messages or bytes only their reasons are kept and counted: a flood must not fill the database.
MOST_KEPT, MOST_KEPT_BYTES = 10_000, 256 * 1024 * 1024
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
        """What tells this message from others: its content, and its id if a replay would make a job by that id.

        Where nothing is kept of the content, the reason stands for it.
        """
        digest = hashlib.sha256()
        own = self._id_of_job() if self.body else self.reason
        for part in (self.task, self.queue, self.content_type, self.content_encoding, own):
            digest.update(repr(part).encode("utf-8", "backslashreplace") + b"\0")
        digest.update(self.body)
        return digest.digest()

    def _id_of_job(self) -> str | None:
        """Return the message's id if its job would have that id as its key, so that each message is a job."""
        if self.task != DOOR:
            return None
        arguments, keywords = self.read
        if not isinstance(arguments, list) or not isinstance(keywords, dict) or keyed(arguments, keywords):
            return None
        return self.message_id

    @cached_property
    def read(self) -> tuple[Any, Any]:
        """Return the arguments and keywords of the body, or two times None for what is no such body."""
        try:
            content = json.loads(self.body)
            arguments, keywords = content[:2]
        except (ValueError, TypeError, LookupError, RecursionError):
            return None, None
        return arguments, keywords

    @property
    def shown_id(self) -> str:
        """The message's own id, or one that follows from its content."""
        return self.message_id or str(UUID(bytes=self.fingerprint[:16]))

    def reason_only(self) -> "DeadLetter":
        """Return what is kept of it where no more messages are: that something was refused for this reason."""
        return DeadLetter(without_value(self.reason), b"", self.task, queue=self.queue)

    def values(self) -> dict[str, Any]:
        """Return the columns of its row, each within its bound and without what Postgres cannot store."""
        arguments, keywords = self.read
        return {
            "fingerprint": self.fingerprint,
            "reason": _text(self.reason, MAX_REASON_CHARACTERS) or "no reason was given",
            "task": _text(self.task, NAME_CHARACTERS),
            "message_id": _text(self.message_id, NAME_CHARACTERS),
            "queue": _text(self.queue, NAME_CHARACTERS),
            "content_type": _text(self.content_type, 100),
            "content_encoding": _text(self.content_encoding, 50),
            "arguments": _json(arguments),
            "keywords": _json(without_signature(keywords)),
            "body": self.body if len(self.body) <= MOST_MESSAGE_BYTES else self.body[:CUT_BYTES],
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


class DeadLetters:
    """Keeps refused messages for one worker process, on its loop.

    Each message is written before :meth:`keep` returns; one that comes again is counted, and written once a second.
    ``remembered`` is of how many messages it knows that they are kept, ``most`` and ``most_bytes`` how much the table
    is to hold.
    """

    def __init__(
        self,
        database: Database,
        *,
        remembered: int = MOST_REMEMBERED,
        most: int = MOST_KEPT,
        most_bytes: int = MOST_KEPT_BYTES,
    ) -> None:
        self._database = database
        self._most_remembered = remembered
        self._most, self._most_bytes = most, most_bytes
        # How often a kept message came again since that was last written.
        self._known: dict[bytes, int] = {}
        self._waiting = 0
        self._room, self._room_bytes = 0, 0
        self._looked_at = 0.0

    async def keep(self, letter: DeadLetter) -> None:
        """Return once the message is kept; waits while Postgres is away."""
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
        if letter.fingerprint not in self._known:
            return False
        self._known[letter.fingerprint] += 1
        return True

    async def _write(self, letter: DeadLetter) -> None:
        while True:
            try:
                if not await self._has_room(len(letter.body)):
                    letter = letter.reason_only()
                    if self._count(letter):
                        return
                async with self._database.session() as session:
                    await store.save_message(session, letter.values())
                self._room, self._room_bytes = self._room - 1, self._room_bytes - len(letter.body)
            except Exception as error:
                if not is_database_away(error):
                    log.exception("dead_letter_lost", reason=without_value(letter.reason))
                    return
                await asyncio.sleep(1.0)
            else:
                break
        # Another of this content may have been written meanwhile, and counted since.
        self._known.setdefault(letter.fingerprint, 0)
        if len(self._known) > self._most_remembered:
            self._forget_one()

    def _forget_one(self) -> None:
        """Forget the oldest of which nothing is to be counted: it is looked up when it comes again."""
        for fingerprint, count in self._known.items():
            if not count:
                del self._known[fingerprint]
                return

    async def _has_room(self, size: int) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= FULL_CHECK_SECONDS:
            async with self._database.session() as session:
                rows, kept = await store.read_usage(session, most=self._most)
            self._looked_at = now
            self._room, self._room_bytes = self._most - rows, self._most_bytes - kept
        return self._room > 0 and self._room_bytes >= size

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
        more = {one: count for one, count in self._known.items() if count}
        if not more:
            return
        async with self._database.session() as session:
            kept = await store.count_more(session, more)
        for fingerprint, count in more.items():
            if fingerprint not in kept:
                self._known.pop(fingerprint, None)
            elif fingerprint in self._known:
                self._known[fingerprint] -= count
