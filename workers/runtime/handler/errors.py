"""The errors that decide a job's fate, and how any exception is read as one. Knows no library but the standard one."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from workers.runtime.faults import Permanent as Permanent  # noqa: PLC0414 - handlers import both from here
from workers.runtime.faults import Retryable as Retryable  # noqa: PLC0414 - likewise
from workers.runtime.handler.outcomes import Fail, Retry, Snooze

ERROR_LIMIT = 2_000
UNAVAILABLE_DELAY = timedelta(seconds=5)


class Refused(Permanent):
    """Not this input, by what it says or how long it is; another may succeed."""


class _Unfit(Exception):
    """``reasons`` by a text's place; ``embeddings`` has the vectors of all texts, of which those are of no use."""

    def __init__(self, embeddings: Any, reasons: Mapping[int, str]) -> None:
        super().__init__(f"provider has no vector that can be compared for a text: {next(iter(reasons.values()))}")
        self.embeddings = embeddings
        self.reasons = reasons


class UnfitVectors(_Unfit, Permanent):
    """Some texts got vectors that no index can hold, or that have no direction: another attempt gives the same."""


class BrokenVectors(_Unfit, Retryable):
    """Some texts got vectors that are no numbers: a server in trouble, or one that always does so for these texts."""


class InvalidAnswers(Retryable):
    """The model answered, but not in the form asked for: another attempt may, and so may another input.

    ``least`` is the shortest wait before the next attempt, for an answer that costs much to receive again.
    """

    def __init__(self, reason: str, *, least: timedelta = timedelta()) -> None:
        super().__init__(reason)
        self.least = least


class Unavailable(Retryable):
    """Whoever asks, the provider cannot answer now: no fault of the job's, which waits and spends no attempt.

    ``provider`` and ``since`` name who is away and since when, ``delay`` says how long to leave it alone, ``asked`` how
    long the provider itself wants to be. ``certain``: one failure is enough to tell, as a refused connection is.
    ``of``: what is away, a whole ``server``, one ``model`` of it, or ``either``, where that cannot be told.
    ``paused``: it was not even asked, because it is known to be away. ``answered`` is how long ago it answered anybody,
    where that is known.
    """

    def __init__(
        self,
        reason: str,
        *,
        delay: timedelta | None = None,
        asked: timedelta | None = None,
        certain: bool = False,
        of: Literal["server", "model", "either"] = "either",
        provider: str | None = None,
        since: datetime | None = None,
        paused: bool = False,
        answered: timedelta | None = None,
    ) -> None:
        away = f"provider {provider} is away since {since:%Y-%m-%d %H:%M} UTC" if provider and since else None
        super().__init__(f"{away} ({reason})" if away else f"provider is away: {reason}")
        self.reason = reason
        self.delay = delay or asked or UNAVAILABLE_DELAY
        self.asked = asked
        self.certain = certain
        self.of = of
        self.provider = provider
        self.since = since
        self.paused = paused
        self.answered = answered


class RateLimited(Exception):
    """The provider asks to wait: the job is snoozed for ``delay``, no attempt spent.

    ``others_decide``: the wait ends by what others do, as for a limit that many share, a budget, or an identical job.
    Such a wait is no lack of progress.
    """

    def __init__(self, reason: str, *, delay: timedelta, others_decide: bool = False) -> None:
        super().__init__(reason)
        self.delay = delay
        self.others_decide = others_decide


def describe(error: BaseException) -> str:
    """Return one bounded line for ``error``: its class unless it is ours, then its message.

    Of a database error only the server's own first line: the rest quotes statements, parameters and whole rows.
    """
    cause = getattr(error, "orig", None) or error
    message = str(getattr(getattr(cause, "diag", None), "message_primary", None) or cause)
    if not isinstance(error, (Retryable, Permanent, RateLimited)):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return one_line(message)


def failure_of(error: BaseException) -> str:
    """Return what is kept about one request: for an outage how it failed, not since when somebody is away."""
    return one_line(f"provider failed ({error.reason})") if isinstance(error, Unavailable) else describe(error)


def one_line(text: str) -> str:
    """Return ``text`` as one bounded line that Postgres can store: it takes neither NUL nor half a surrogate pair."""
    line = " ".join(text.replace("\x00", "\N{REPLACEMENT CHARACTER}").split())
    return line[:ERROR_LIMIT].encode("utf-8", "replace").decode("utf-8")


def outcome_of(error: BaseException) -> Snooze | Fail | Retry:
    """Decide what an exception of a handler means: permanent fails, a wait snoozes, all else is retried."""
    match error:
        case Permanent():
            return Fail(describe(error))
        case RateLimited(delay=delay) | Unavailable(delay=delay):
            return Snooze(delay, describe(error))
        case InvalidAnswers(least=least):
            return Retry(describe(error), least)
        case _:
            return Retry(describe(error))
