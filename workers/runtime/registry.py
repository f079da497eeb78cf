"""The registry of stages: which handler performs which step of which table. Knows no Celery and no domain by name."""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import inspect

from models.lifecycle import JOB_ATTRIBUTES, Job, Step
from workers.runtime.admission import Limit
from workers.runtime.context import Context
from workers.runtime.outcomes import Outcome

J = TypeVar("J", bound=Job)
Handler = Callable[[J, Context], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, eq=False)  # one per name: identity is equality, and the key of cached SQL
class Stage:
    """One step of a lifecycle with the handler that performs it.

    ``settable`` are the attributes that ``Complete(values=…)`` may set: the model's own, none of the lifecycle's or
    the payload's.
    """

    name: str
    model: type[Job]
    step: Step
    handler: Callable[[Any, Context], Awaitable[Outcome]]
    payload: type[BaseModel]
    limit: Limit | None
    timeout: timedelta
    settable: frozenset[str]

    @property
    def queue(self) -> str:
        """The Celery queue that carries this stage: its first word."""
        return self.name.partition(".")[0]


class UnknownStageError(LookupError):
    """No handler is registered under that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"stage {name!r} is not registered; known stages: {', '.join(sorted(known)) or 'none'}")


class Registry(Mapping[str, Stage]):
    """Every known stage by name."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def __getitem__(self, name: str) -> Stage:
        try:
            return self._stages[name]
        except KeyError:
            raise UnknownStageError(name, self._stages) from None

    def __contains__(self, name: object) -> bool:
        return name in self._stages

    def __iter__(self) -> Any:
        return iter(sorted(self._stages))

    def __len__(self) -> int:
        return len(self._stages)

    def add(self, stage: Stage) -> None:
        """Register ``stage``; a second handler of one name is a programming error."""
        if stage.name in self._stages:
            raise ValueError(f"stage {stage.name!r} is registered twice")
        self._stages[stage.name] = stage


registry = Registry()


def stage(
    name: str,
    *,
    of: type[J],
    payload: type[BaseModel],
    limit: Limit | None = None,
    timeout: timedelta = timedelta(minutes=5),
    into: Registry = registry,
) -> Callable[[Handler[J]], Handler[J]]:
    """Register the decorated coroutine function as the handler of ``name``, a step of ``of``'s lifecycle.

    ``payload`` is what the doors accept: its fields are columns of ``of``. ``timeout`` bounds one run where the
    row names no ``timeout_seconds`` of its own.
    """

    def register(handler: Handler[J]) -> Handler[J]:
        own = frozenset(attribute.key for attribute in inspect(of).column_attrs)
        settable = own - JOB_ATTRIBUTES - frozenset(payload.model_fields)
        into.add(Stage(name, of, of.__lifecycle__.step(name), handler, payload, limit, timeout, settable))
        return handler

    return register


def discover(package: str = "workers") -> Registry:
    """Import every module below ``package`` but the rooms that hold no handlers; return the registry they filled."""
    root = importlib.import_module(package)
    rooms_without_handlers = {f"{package}.{room}" for room in ("runtime", "transport", "llm")}
    for room in pkgutil.iter_modules(root.__path__, f"{package}."):
        if room.name in rooms_without_handlers or not room.ispkg:
            continue
        for module in pkgutil.walk_packages(importlib.import_module(room.name).__path__, f"{room.name}."):
            importlib.import_module(module.name)
    return registry
