"""What became of an attempt, and what follows from it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from workers.runtime.handler.errors import Permanent, one_line
from workers.runtime.handler.outside import HttpAnswer
from workers.runtime.refusals import cut, printable

# Older attempts are forgotten.
MAX_ATTEMPTS_KEPT = 30
MAX_ANSWER_CHARACTERS = 500
GONE = 410
# With these a receiver may say when it wants to be asked again.
THROTTLING = frozenset({429, 502, 503, 504})


class Verdict(StrEnum):
    """What follows from an attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"  # another attempt may succeed
    GONE = "gone"  # the receiver wants nothing more
    REFUSED = "refused"  # the address must not be called, or the message cannot be sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt. ``status`` is null if no answer came; then ``error`` says why. ``answer`` is the body's start."""

    at: datetime
    milliseconds: int
    status: int | None = None
    address: str | None = None
    error: str | None = None
    answer: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as the row keeps it."""
        return {
            "at": self.at.isoformat(),
            "milliseconds": self.milliseconds,
            "status": self.status,
            "address": self.address,
            "error": self.error,
            "answer": self.answer,
        }


def note_answer(answer: HttpAnswer, *, at: datetime, milliseconds: int) -> Attempt:
    """Return the attempt that got ``answer``."""
    text = answer.body.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return Attempt(
        at=at,
        milliseconds=milliseconds,
        status=answer.status,
        address=answer.address or None,
        error=None if is_success(answer.status) else f"the endpoint answered {answer.status}",
        answer=cut(printable(text), MAX_ANSWER_CHARACTERS) or None,
    )


def note_error(error: Exception, *, at: datetime, milliseconds: int) -> Attempt:
    """Return the attempt that got no answer."""
    return Attempt(at=at, milliseconds=milliseconds, error=one_line(str(error)))


def judge_answer(status: int) -> Verdict:
    """Return what follows from an answer: only 2xx is a success. A redirect is a failure."""
    if is_success(status):
        return Verdict.DELIVERED
    return Verdict.GONE if status == GONE else Verdict.RETRY


def judge_error(error: Exception) -> Verdict:
    """Return what follows from an error without an answer."""
    return Verdict.REFUSED if isinstance(error, Permanent) else Verdict.RETRY


def is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - the class of statuses


def add_attempt(before: Sequence[dict[str, Any]], attempt: Attempt) -> list[dict[str, Any]]:
    """Return the log of a delivery with ``attempt`` at its end."""
    return [*before, attempt.as_json()][-MAX_ATTEMPTS_KEPT:]
