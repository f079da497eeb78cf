"""Keep the messages that the Celery door refused, each with its reason, and count repeated ones.

This module sees a message as bytes and the values read from them; it knows no Celery. People list and replay the
messages with :mod:`workers.runtime.operate.dead_letters`.
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
from workers.runtime.operate.requests import DOOR, MAX_MESSAGE_BYTES, has_idempotency_key, without_signature
from workers.runtime.refusals import without_value
from workers.runtime.store import dead_letters as store
from workers.runtime.store.dead_letters import MAX_REASON_CHARACTERS

log = structlog.get_logger(__name__)

# A message that is too large for the door is cut to these bytes. Others are kept whole, for a replay.
CUT_BYTES = 65_536
MAX_JSON_CHARACTERS = 8_000
MAX_FIELD_CHARACTERS = 255
# If the table holds more messages or bytes, only reasons are kept and counted: a flood must not fill the database.
MAX_KEPT_MESSAGES, MAX_KEPT_BYTES = 10_000, 256 * 1024 * 1024
COUNT_SECONDS = 1.0
FULL_CHECK_SECONDS = 5.0
# How many kept messages a process remembers, and how many may wait to be kept while Postgres is away.
MAX_REMEMBERED, MAX_WAITING = 10_000, 1_000


@dataclass(frozen=True)
class DeadLetter:
    """A refused message, as far as it could be read, and the reason."""

    reason: str
    body: bytes
    task: str | None = None
    message_id: str | None = None
    queue: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None

    @cached_property
    def fingerprint(self) -> bytes:
        """Identify this message: by its content, and by its id if a replay would use that id as the job's key.

        If no content is kept, the reason is used instead.
        """
        digest = hashlib.sha256()
        own = self._id_of_job() if self.body else self.reason
        for part in (self.task, self.queue, self.content_type, self.content_encoding, own):
            digest.update(repr(part).encode("utf-8", "backslashreplace") + b"\0")
        digest.update(self.body)
        return digest.digest()

    def _id_of_job(self) -> str | None:
        """Return the message's id if a job would use it as its key: then each message is a job of its own."""
        if self.task != DOOR:
            return None
        arguments, keywords = self.read
        if not isinstance(arguments, list) or not isinstance(keywords, dict):
            return None
        if has_idempotency_key(arguments, keywords):
            return None
        return self.message_id

    @cached_property
    def read(self) -> tuple[Any, Any]:
        """Return the arguments and keywords of the body, or None twice if it has none."""
        try:
            content = json.loads(self.body)
            arguments, keywords = content[:2]
        except (ValueError, TypeError, LookupError, RecursionError):
            return None, None
        return arguments, keywords

    @property
    def shown_id(self) -> str:
        """The message's own id, or one made from its content."""
        return self.message_id or str(UUID(bytes=self.fingerprint[:16]))

    def reason_only(self) -> "DeadLetter":
        """Return the part that is kept when the table is full: the reason, without the content."""
        return DeadLetter(without_value(self.reason), b"", self.task, queue=self.queue)

    def values(self) -> dict[str, Any]:
        """Return the columns of its row, each within its limit and without characters that Postgres cannot store."""
        arguments, keywords = self.read
        return {
            "fingerprint": self.fingerprint,
            "reason": _text(self.reason, MAX_REASON_CHARACTERS) or "no reason was given",
            "task": _text(self.task, MAX_FIELD_CHARACTERS),
            "message_id": _text(self.message_id, MAX_FIELD_CHARACTERS),
            "queue": _text(self.queue, MAX_FIELD_CHARACTERS),
            "content_type": _text(self.content_type, 100),
            "content_encoding": _text(self.content_encoding, 50),
            "arguments": _json(arguments),
            "keywords": _json(without_signature(keywords)),
            "body": self.body if len(self.body) <= MAX_MESSAGE_BYTES else self.body[:CUT_BYTES],
            "size": len(self.body),
        }


def _text(value: str | None, max_characters: int) -> str | None:
    return None if value is None else one_line(str(value))[:max_characters]


def _json(value: object) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value)[:MAX_JSON_CHARACTERS]
    except (ValueError, TypeError, RecursionError):
        return None


class DeadLetters:
    """Keeps refused messages for one worker process, on its loop.

    Each message is written before :meth:`keep` returns. Repeated messages are counted; the counts are written once a
    second. ``max_remembered`` is how many kept messages are remembered. The table holds at most ``max_messages`` and
    ``max_bytes``.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_remembered: int = MAX_REMEMBERED,
        max_messages: int = MAX_KEPT_MESSAGES,
        max_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self._database = database
        self._max_remembered = max_remembered
        self._max_messages, self._max_bytes = max_messages, max_bytes
        # How often a kept message was repeated since the last write of the counts.
        self._known: dict[bytes, int] = {}
        self._waiting = 0
        self._room, self._room_bytes = 0, 0
        self._looked_at = 0.0

    async def keep(self, letter: DeadLetter) -> None:
        """Return when the message is kept; wait while Postgres is away."""
        if self._count(letter):
            return
        if self._waiting >= MAX_WAITING:
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
        # Meanwhile another message with this content may have been written and counted.
        self._known.setdefault(letter.fingerprint, 0)
        if len(self._known) > self._max_remembered:
            self._forget_one()

    def _forget_one(self) -> None:
        """Forget the oldest message that has no count to write; if it is repeated, it is looked up again."""
        for fingerprint, count in self._known.items():
            if not count:
                del self._known[fingerprint]
                return

    async def _has_room(self, size: int) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= FULL_CHECK_SECONDS:
            async with self._database.session() as session:
                rows, kept = await store.read_usage(session, most=self._max_messages)
            self._looked_at = now
            self._room, self._room_bytes = self._max_messages - rows, self._max_bytes - kept
        return self._room > 0 and self._room_bytes >= size

    async def run(self) -> None:
        """Write the counts of repeated messages once a second."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            try:
                await self.flush()
            except Exception as error:
                if not is_database_away(error):
                    raise
                log.warning("dead_letters_wait_for_database", error=describe(error))

    async def flush(self) -> None:
        """Write the counts of repeated messages. A message deleted meanwhile is kept again when it is repeated."""
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
