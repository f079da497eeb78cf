"""The registry of assessors: the function for each ``assessmentType``. Knows no type by name."""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from workers.assessment import types
from workers.assessment.request import AssessmentRequest, validate
from workers.assessment.result import AssessmentResult
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import LanguageModel

O = TypeVar("O", bound=BaseModel)  # noqa: E741 - the options of one type


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessorTools:
    """The tools of an assessor.

    ``progress(share)`` reports the share of the assessment that is done, from 0 to 1. ``last_attempt`` is true if no
    retry is left.
    """

    llm: LanguageModel
    progress: Callable[[float], Awaitable[None]]
    last_attempt: bool


Assess = Callable[[AssessmentRequest, O, AssessorTools], Awaitable[AssessmentResult]]


@dataclass(frozen=True, slots=True)
class Assessor:
    """One type of assessment: its name, the type of its options, and the function that performs it."""

    name: str
    options: type[BaseModel]
    assess: Callable[[AssessmentRequest, Any, AssessorTools], Awaitable[AssessmentResult]]


class Assessors(Mapping[str, Assessor]):
    """All assessors by type. Those in ``workers.assessment.types`` are imported at the first access."""

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
        """Register ``assessor``; raise ValueError if the name is already registered."""
        if assessor.name in self._known:
            raise ValueError(f"assessor {assessor.name!r} is registered twice")
        self._known[assessor.name] = assessor

    def _all(self) -> dict[str, Assessor]:
        if not self._searched:
            self._searched = True  # set before the imports: a type may use the registry while it is imported
            for module in pkgutil.iter_modules(types.__path__, f"{types.__name__}."):
                importlib.import_module(module.name)
        return self._known


assessors = Assessors()


def assessor(name: str, *, options: type[O], into: Assessors = assessors) -> Callable[[Assess[O]], Assess[O]]:
    """Register the decorated coroutine function as the assessor of ``assessmentType`` ``name``.

    It gets the request, its options as ``options``, and :class:`AssessorTools`. Its errors mean the same as in any
    handler: Permanent fails the job, RateLimited snoozes it, any other error is retried.
    """

    def register(assess: Assess[O]) -> Assess[O]:
        into.add(Assessor(name, options, assess))
        return assess

    return register


def find_assessor(name: str) -> Assessor:
    """Return the assessor of a type; raise Permanent, which lists the known types."""
    if name not in assessors:
        raise Permanent(f"assessmentType must be one of {', '.join(assessors)}, got {name!r}")
    return assessors[name]


def options_of(request: AssessmentRequest) -> BaseModel:
    """Return the request's options as the type defines them; raise Permanent with one line that says what is wrong."""
    return validate(find_assessor(request.assessment_type).options, request.options, name="options", prefix="options.")


async def perform(request: AssessmentRequest, tools: AssessorTools) -> AssessmentResult:
    """Run the assessor of the request's type and return its result; raise Permanent for invalid options."""
    return await find_assessor(request.assessment_type).assess(request, options_of(request), tools)
