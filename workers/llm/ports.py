"""What a call of a provider needs from others: its position on its route, turns, limits, the batch lane.

Light to import.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from workers.llm.calls import Admission, Call, Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneQuestion:
    """A request that may wait. ``provider`` is its name in ``llm.providers``; ``body`` is what would be posted."""

    provider: str
    model: str
    body: str
    input_tokens: int
    output_tokens: int
    route: str = "none"
    step: int = 0


@dataclass(slots=True)
class Attempts:
    """How many requests were sent for one question, over all steps of its path."""

    sent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePosition:
    """The step of a route that a call is made for. ``is_last``: no other step can answer if this one cannot.

    ``context_tokens`` is what question and answer may have together, where the step says so.
    """

    route: str
    step: int = 0
    is_last: bool = True
    context_tokens: int | None = None
    attempts: Attempts = field(default_factory=Attempts)


current_position: ContextVar[RoutePosition] = ContextVar("current_position")
NO_POSITION = RoutePosition(route="none")


class Turns(Protocol):
    """The order in which calls are admitted: first come, first served."""

    async def admitted(self, call: Call, *, until: float | None = None) -> None:
        """Return once ``call`` is reserved; raise NotAdmittedError if that cannot be before ``until`` (monotonic)."""


class Learn(Protocol):
    """Keeps a limit that a provider states in its headers, for all processes."""

    async def __call__(
        self, provider: str, model: str | None, *, measure: str, at_most: int, window: timedelta | None
    ) -> object: ...


class Lane(Protocol):
    """Questions that may wait for a half-price answer."""

    async def has(self, caller: Caller) -> bool:
        """Tell whether the caller's job is in the batch lane."""

    async def answer(self, question: LaneQuestion) -> str | None:
        """Return the body of an answer that is there, None if it is to be asked now; raise Deferred while it waits."""

    async def enter(self, caller: Caller) -> bool:
        """Put the caller's job into the lane, as a budget wants it; tell whether it was put there now."""


@dataclass(frozen=True, slots=True)
class Control:
    """What keeps the calls of all processes within their limits, the ledger of them, and the batch lane.

    With ``learn`` the limits that providers state in their headers are kept too.
    """

    admission: Admission
    turns: Turns
    learn: Learn | None = None
    lane: Lane | None = None
