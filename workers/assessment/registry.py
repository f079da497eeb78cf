"""The registry of assessors: which function assesses which ``assessmentType``. Knows no type by name."""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from workers.assessment import types
from workers.assessment.request import AssessmentRequest, validated
from workers.assessment.result import AssessmentResult
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import LanguageModel

O = TypeVar("O", bound=BaseModel)  # noqa: E741 - the options of one type


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What an assessor works with.

    ``progress(share)`` tells how much of the assessment is done, from 0 to 1. ``last_attempt`` is true when an error
    that another attempt could mend will have none.
    """

    llm: LanguageModel
    progress: Callable[[float], Awaitable[None]]
    last_attempt: bool


Assess = Callable[[AssessmentRequest, O, Desk], Awaitable[AssessmentResult]]


@dataclass(frozen=True, slots=True)
class Assessor:
    """One type of assessment: what its options may be, and what performs it."""

    name: str
    options: type[BaseModel]
    assess: Callable[[AssessmentRequest, Any, Desk], Awaitable[AssessmentResult]]


class Assessors(Mapping[str, Assessor]):
    """Every assessor by its type; those in ``workers.assessment.types`` are found at the first look."""

    def __init__(self) -> None:
        self._known: dict[str, Assessor] = {}
        self._searched = False

    def __getitem__(self, name: str) -> Assessor:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def add(self, assessor: Assessor) -> None:
        """Register ``assessor``; a second one of a name is a programming error."""
        if assessor.name in self._known:
            raise ValueError(f"assessor {assessor.name!r} is registered twice")
        self._known[assessor.name] = assessor

    def _all(self) -> dict[str, Assessor]:
        if not self._searched:
            self._searched = True  # first: a type may look another one up while it is imported
            for module in pkgutil.iter_modules(types.__path__, f"{types.__name__}."):
                importlib.import_module(module.name)
        return self._known


assessors = Assessors()


def assessor(name: str, *, options: type[O], into: Assessors = assessors) -> Callable[[Assess[O]], Assess[O]]:
    """Register the decorated coroutine function as what assesses ``assessmentType`` ``name``.

    It is given the request, its options as ``options``, and a :class:`Desk`. What it raises decides the job's fate as
    everywhere: Permanent fails it, RateLimited snoozes it, anything else is retried.
    """

    def register(assess: Assess[O]) -> Assess[O]:
        into.add(Assessor(name, options, assess))
        return assess

    return register


def find(name: str) -> Assessor:
    """Return the assessor of a type; raise Permanent naming the known ones."""
    if name not in assessors:
        raise Permanent(f"assessmentType must be one of {', '.join(assessors)}, got {name!r}")
    return assessors[name]


def options_of(request: AssessmentRequest) -> BaseModel:
    """Return the request's options as its type reads them; raise Permanent with one line saying what is wrong."""
    return validated(find(request.assessment_type).options, request.options, name="options", prefix="options.")


async def perform(request: AssessmentRequest, desk: Desk) -> AssessmentResult:
    """Return the result of the assessor of the request's type; raise what it raises, or Permanent for bad options."""
    return await find(request.assessment_type).assess(request, options_of(request), desk)
