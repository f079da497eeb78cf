"""A question that a job asks, and the fingerprint by which its answer is found again. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from workers.llm.calls import Caller, current_caller
from workers.runtime.handler.errors import RateLimited
from workers.runtime.handler.ports import Message

# Increase it if answers that were kept by an older release must not be used any more.
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and for whom it is asked. With ``share_for`` an answer of that age may come from another job.

    ``fingerprint`` tells it from every other question. ``into`` is the form of the answer. ``route``, ``provider`` and
    ``model`` are those of the call that a kept answer saves, for the ledger.
    """

    fingerprint: bytes
    caller: Caller = field(default_factory=current_caller)
    share_for: timedelta | None = None
    into: type[BaseModel] | None = None
    route: str = ""
    provider: str = ""
    model: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether answers of other jobs may answer it."""
        return self.share_for is not None

    @property
    def owned(self) -> bytes:
        """The fingerprint within the owner's questions: the questions of two owners never meet."""
        owner = self.caller.owner_id
        return sha256((b"none" if owner is None else owner.bytes) + self.fingerprint).digest()

    @property
    def key(self) -> tuple[bytes, UUID | None]:
        """What questions have in common of which one is enough."""
        return self.owned, None if self.is_shared else self.caller.job_id


class AskedElsewhereError(RateLimited):
    """Another job of the same owner asks this question. Its answer will be shared: the job is snoozed."""

    def __init__(self, job_id: UUID | None, *, delay: timedelta) -> None:
        asker = "an identical job" if job_id is None else f"identical job {job_id}"
        super().__init__(f"{asker} is in flight", delay=delay, others_decide=True)


def question_of(
    identity: str,
    messages: Sequence[Message],
    *,
    into: type[BaseModel],
    parameters: Mapping[str, Any] | None = None,
    share_for: timedelta | None = None,
) -> Question:
    """Return the current run's question to ``identity``: the providers and models that may answer it.

    The fingerprint is of the identity, the messages, the answer's form and the parameters. A form may have a
    ``prompt_version``: answers to the questions of another version are not used.
    """
    parts = [
        VERSION,
        identity,
        [[message["role"], message["content"]] for message in messages],
        _digest_of(into),
        dict(parameters or {}),
    ]
    digest = sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).digest()
    return Question(fingerprint=digest, share_for=share_for, into=into)


@lru_cache(maxsize=256)
def _digest_of(into: type[BaseModel]) -> str:
    from workers.llm.structured import schema_of  # noqa: PLC0415 - importing openai costs a second

    form = [getattr(into, "prompt_version", None), schema_of(into)]
    return sha256(json.dumps(form, sort_keys=True, default=str).encode()).hexdigest()
