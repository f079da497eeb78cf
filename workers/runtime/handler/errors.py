"""The errors that decide what happens to a job, and the settlement for any exception. Imports no library."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from workers.runtime.faults import Permanent as Permanent  # noqa: PLC0414 - handlers import both from here
from workers.runtime.faults import Retryable as Retryable  # noqa: PLC0414 - likewise
from workers.runtime.handler.outcomes import Fail, Retry, Snooze

MAX_ERROR_CHARACTERS = 2_000
UNAVAILABLE_DELAY = timedelta(seconds=5)


class Refused(Permanent):
    """The provider refuses this input because of its content or length; another input may succeed."""


class _Unfit(Exception):
    """``reasons`` names the unusable vectors by the text's position; ``embeddings`` has the vectors of all texts."""

    def __init__(self, embeddings: Any, reasons: Mapping[int, str]) -> None:
        super().__init__(f"provider has no vector that can be compared for a text: {next(iter(reasons.values()))}")
        self.embeddings = embeddings
        self.reasons = reasons


class UnfitVectors(_Unfit, Permanent):
    """Some vectors do not fit into an index or have no direction; another attempt gives the same vectors."""


class BrokenVectors(_Unfit, Retryable):
    """Some vectors have values that are no numbers: the server has a fault, or always does this for these texts."""


class InvalidAnswers(Retryable):
    """The model's answer does not have the requested form; another attempt or another input may succeed.

    ``min_delay`` is the shortest wait before the next attempt, for answers that are expensive to receive again.
    """

    def __init__(self, reason: str, *, min_delay: timedelta = timedelta()) -> None:
        super().__init__(reason)
        self.min_delay = min_delay


class RetryIn(Retryable):
    """Another attempt may succeed: it is made after ``delay``, by the handler's own schedule. Spends an attempt."""

    def __init__(self, reason: str, *, delay: timedelta) -> None:
        super().__init__(reason)
        self.delay = delay


class Unavailable(Retryable):
    """The provider cannot answer anybody now: the job waits and spends no attempt.

    ``provider`` is away since ``since``. ``delay`` is how long to wait before the next request; ``asked`` is the wait
    that the provider itself asks for. ``certain``: this one failure proves the outage, for example a refused
    connection. ``of``: the whole ``server`` is away, one ``model`` of it, or ``either`` if that is not known.
    ``paused``: no request was sent, because the provider is known to be away. ``answered`` is how long ago it last
    answered anybody, if known.
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
    """The provider's rate limit is reached: the job is snoozed for ``delay`` and spends no attempt.

    ``others_decide``: the wait ends by what others do, as for a limit that many share, a budget, or an identical job.
    Such a wait is no lack of progress.
    """

    def __init__(self, reason: str, *, delay: timedelta, others_decide: bool = False) -> None:
        super().__init__(reason)
        self.delay = delay
        self.others_decide = others_decide


class Deferred(RateLimited):
    """The answer comes later and the question is kept: ask the other questions of the job too, then let it wait."""

    def __init__(self, reason: str, *, delay: timedelta) -> None:
        super().__init__(reason, delay=delay)
        # Such a wait is no lack of progress.
        self.others_decide = True


def describe(error: BaseException) -> str:
    """Return one line of limited length for ``error``: its class unless it is ours, then its message.

    For a database error only the server's first line is used: the rest quotes statements, parameters and whole rows.
    """
    cause = getattr(error, "orig", None) or error
    message = str(getattr(getattr(cause, "diag", None), "message_primary", None) or cause)
    if not isinstance(error, (Retryable, Permanent, RateLimited)):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return one_line(message)


def failure_of(error: BaseException) -> str:
    """Return one line about a failed request; for an outage only how the request failed, not since when it lasts."""
    return one_line(f"provider failed ({error.reason})") if isinstance(error, Unavailable) else describe(error)


def one_line(text: str) -> str:
    """Return ``text`` as one line of limited length, without NUL and lone surrogates, which Postgres cannot store."""
    line = " ".join(text.replace("\x00", "\N{REPLACEMENT CHARACTER}").split())
    return line[:MAX_ERROR_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def outcome_of(error: BaseException) -> Snooze | Fail | Retry:
    """Return the settlement for an exception of a handler: permanent fails, a wait snoozes, all others are retried."""
    match error:
        case Permanent():
            return Fail(describe(error))
        case RateLimited(delay=delay) | Unavailable(delay=delay):
            return Snooze(delay, describe(error))
        case RetryIn(delay=delay):
            return Retry(describe(error), delay=delay)
        case InvalidAnswers(min_delay=min_delay):
            return Retry(describe(error), min_delay)
        case _:
            return Retry(describe(error))
