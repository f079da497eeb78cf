"""Messages that the Celery door refused: keep each with its reason, show them, and replay them through the same door.

Knows messages as their bytes and what was read of them; Celery is the transport's.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from workers.runtime.database import Database, is_database_away
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.handler.errors import describe, one_line
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.refusals import NotFound, quoted, without_value
from workers.runtime.store import dead_letters as store
from workers.runtime.store.dead_letters import DeadMessageView

log = structlog.get_logger(__name__)

DOOR = "gristmill.enqueue"
PARAMETERS = ("stage", "payload", "idempotency_key", "priority", "due_at")
# A message of a service: a payload with a long prompt fits many times.
MOST_MESSAGE_BYTES = 4 * 1024 * 1024

KEPT_BYTES = 65_536
SHOWN_CHARACTERS = 8_000
REASON_CHARACTERS = 1_000
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


# ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Request:
    """What a message asks the door for."""

    stage: str
    payload: Mapping[str, Any]
    options: Mapping[str, Any]


def read_request(arguments: Sequence[Any], keywords: Mapping[str, Any], *, message_id: object) -> Request:
    """Return what a message asks for; raise EnqueueError for what cannot be meant.

    Without a key of its own, the message's id makes a redelivered message the same job.
    """
    given = _bound(arguments, keywords)
    stage, payload = given.pop("stage"), given.pop("payload")
    if not isinstance(stage, str):
        raise EnqueueError(f"stage must be a text, got {quoted(stage)}")
    if not isinstance(payload, Mapping):
        raise EnqueueError(f"payload must be an object, got {quoted(payload)}")
    options = {name: value for name, value in given.items() if value is not None}
    if "idempotency_key" not in options:
        if not isinstance(message_id, str) or not message_id.strip():
            raise EnqueueError(f"a message must have an id, or an idempotency_key, got {quoted(message_id)}")
        options["idempotency_key"] = f"celery:{message_id}"
    return Request(stage, payload, options)


def _bound(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given by the name of its parameter."""
    if len(arguments) > len(PARAMETERS):
        raise EnqueueError(
            f"{DOOR} must have at most {len(PARAMETERS)} arguments ({', '.join(PARAMETERS)}), got {len(arguments)}"
        )
    given = dict(zip(PARAMETERS, arguments, strict=False))
    for name, value in keywords.items():
        if name not in PARAMETERS:
            raise EnqueueError(f"keyword must be one of {', '.join(PARAMETERS)}, got {quoted(name)}")
        if name in given:
            raise EnqueueError(f"{name} must be given once, got it by position and by keyword")
        given[name] = value
    for name in ("stage", "payload"):
        if given.get(name) is None:
            raise EnqueueError(f"{name} is required, got nothing")
    return given


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Repeats:
    """How often a kept message came again since that was last written."""

    count: int = 0
    message_id: str | None = None


class DeadLetters:
    """Keeps refused messages for one worker process, on its loop. The first of each content is written before

    :meth:`keep` returns; what comes again is counted, and written once a second.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
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
        if len(self._known) > MOST_REMEMBERED:
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


# ── use-cases ────────────────────────────────────────────────────────────────────────────────────────────────────────


class UnknownDeadMessage(NotFound):
    """No refused message has that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of one message: ``enqueued``, ``known`` (its key has a job), ``refused`` again, ``kept`` as it is."""

    id: UUID
    outcome: Literal["enqueued", "known", "refused", "kept"]
    job_id: UUID | None = None
    reason: str | None = None


def list_dead(session: Session, *, with_replayed: bool, limit: int) -> list[DeadMessageView]:
    """Return the refused messages that wait for somebody, newest first; the replayed ones as well if asked for."""
    return store.read_all(session, with_replayed=with_replayed, limit=limit)


def show_dead(session: Session, message: str) -> DeadMessageView:
    """Return one refused message by its id, or by the beginning of one that no other has."""
    row = store.read_one(session, _id(session, message))
    if row is None:
        raise UnknownDeadMessage(f"dead message {quoted(message)} does not exist; `gristmill dead list` shows them")
    return row


def replay_dead(session: Session, messages: Sequence[str] | None) -> list[Replayed]:
    """Put these refused messages (None: all that wait) through the door again; each by itself.

    Messages of one content are one: however often it came, it is enqueued once.
    """
    if messages is None:
        ids = [row.id for row in store.read_all(session, with_replayed=False)]
    else:
        ids = list(dict.fromkeys(_id(session, message) for message in messages))
    return [_replay(session, id_) for id_ in ids]


def _id(session: Session, message: str) -> UUID:
    found = store.matching(session, message.strip().lower()) if message.strip() else ()
    if len(found) != 1:
        many = "is the beginning of several ids" if found else "does not exist"
        raise UnknownDeadMessage(f"dead message {quoted(message)} {many}; `gristmill dead list` shows them")
    return found[0]


def _replay(session: Session, id_: UUID) -> Replayed:
    row = store.read_one(session, id_, for_update=True)
    if row is None:
        return Replayed(id=id_, outcome="kept", reason="it was deleted meanwhile")
    if row.replayed_at is not None:
        return Replayed(id=id_, outcome="known", job_id=row.job_id, reason=f"it was replayed at {row.replayed_at}")
    if row.task != DOOR:
        return Replayed(id=id_, outcome="kept", reason=f"only messages of {DOOR} can be replayed, got {row.task!r}")
    if row.body is None or len(row.body) < row.size:
        return Replayed(id=id_, outcome="kept", reason=f"its body of {row.size:,} bytes is not kept whole")
    try:
        with session.begin_nested():
            request = _request(row)
            done = enqueue(session, request.stage, request.payload, **request.options)
    except (EnqueueError, UnknownStageError) as error:
        reason = one_line(str(error))[:REASON_CHARACTERS]
    except (ValueError, TypeError, RecursionError) as error:  # of what no stage could take
        reason = describe(error)[:REASON_CHARACTERS]
    else:
        store.note_replay(session, id_, done.id)
        return Replayed(id=id_, outcome="enqueued" if done.created else "known", job_id=done.id)
    store.note_reason(session, id_, reason)
    return Replayed(id=id_, outcome="refused", reason=reason)


def _request(row: DeadMessageView) -> Request:
    try:
        content = json.loads(row.body or b"")
        arguments, keywords = content[:2]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise EnqueueError(f"body must be Celery's [arguments, keywords, …] in JSON: {describe(error)}") from None
    if not isinstance(arguments, list) or not isinstance(keywords, dict):
        raise EnqueueError("body must be Celery's [arguments, keywords, …] in JSON")
    return read_request(arguments, keywords, message_id=row.message_id)
