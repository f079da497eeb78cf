"""Decide when another step of a route is asked, and which error a job gets if no step can answer. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from workers.llm.calls import NotAdmittedError
from workers.llm.routing.routing import Step
from workers.runtime.handler.errors import Deferred, RateLimited, Unavailable, describe, failure_of

# A question may be sent so often for each step of its route, and so often at all.
ATTEMPTS_PER_STEP, MAX_ATTEMPTS = 2, 6
OUT_OF_TIME = "time of the run"

KeptBack = RateLimited | Unavailable


@dataclass(frozen=True, slots=True)
class Tried:
    """A step that did not answer, and why."""

    step: Step
    error: KeptBack


def max_attempts(steps: int) -> int:
    """Return how often a question may be sent on a path of so many steps."""
    return min(ATTEMPTS_PER_STEP * steps, MAX_ATTEMPTS)


def may_go_on(error: Exception) -> bool:
    """Tell whether the next step may be asked after ``error``.

    If a provider is away, limits its calls or has no quota left: yes. If it refuses the question, or answers in a wrong
    form: no, for that says nothing about the provider. A budget is spent whoever answers. A question in the batch lane
    has its answer later.
    """
    if isinstance(error, Deferred):
        return False
    if isinstance(error, NotAdmittedError):
        return error.limit != OUT_OF_TIME and not error.is_budget
    return isinstance(error, KeptBack)


def none_answered(route: str, tried: Sequence[Tried]) -> KeptBack:
    """Return the error of a job: it waits for the step that is back first."""
    first = min((one.error for one in tried), key=lambda error: error.delay)
    if len(tried) == 1 or all(isinstance(one.error, Unavailable) for one in tried):
        return first
    said = "; ".join(f"{one.step.provider}: {describe(one.error)}" for one in tried)
    delay = max(first.delay, timedelta())
    return NotAdmittedError(f"no step of route {route!r} can answer ({said})", delay=delay, limit=f"route {route}")


def path_record(tried: Sequence[Tried], answered: Step) -> list[Mapping[str, str]]:
    """Return what is kept of a path with an answer: nothing where the first step gave it."""
    if not tried:
        return []
    before = [_named(one.step) | {"why_not": failure_of(one.error)} for one in tried]
    return [*before, _named(answered)]


def _named(step: Step) -> dict[str, str]:
    return {"provider": step.provider, "model": str(step.model)}
