"""The registry of stages: which handler performs which step of which table. Knows no Celery and no domain by name."""

import inspect as python
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import inspect

from models.lifecycle import Job, Step, lifecycle_attributes
from workers.runtime.handler.context import Context
from workers.runtime.handler.discovery import BrokenHandlers, load_all, load_installed
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.sql_door import SqlDoor, describe_door
from workers.runtime.refusals import Problem, Refusal

J = TypeVar("J", bound=Job)
Handler = Callable[[J, Context], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, eq=False)  # one per name: identity is equality, and the key of cached SQL
class Stage:
    """One step of a lifecycle with the handler that performs it.

    ``settable`` are the attributes that ``Complete(values=…)`` may set: those of the model, except the lifecycle's and
    the payload's. ``calls`` says which models its runs call: then limits, budgets and outages of their providers keep
    its jobs back before the dispatch. ``gate`` is the attribute whose value decides which provider is called. ``sql``
    says that ``runtime.enqueue`` accepts the stage. ``searchable`` are the attributes of the payload by whose values
    jobs can be listed.
    """

    name: str
    model: type[Job]
    step: Step
    handler: Callable[[Any, Context], Awaitable[Outcome]]
    payload: type[BaseModel]
    limit: Limit | None
    timeout: timedelta
    settable: frozenset[str]
    gate: str | None = None
    calls: Literal["chat", "embeddings"] | None = None
    sql: SqlDoor | None = None
    searchable: frozenset[str] = frozenset()

    @property
    def sql_door(self) -> dict[str, Any] | None:
        """What the database keeps of a stage that is open to SQL (``runtime.stages.sql_door``); None if it is not."""
        return None if self.sql is None else describe_door(self.sql, self.payload, self.model)

    @property
    def queue(self) -> str:
        """The Celery queue that carries this stage: its first word."""
        return self.name.partition(".")[0]

    def problem_of(self, outcome: Complete) -> str | None:
        """Return what is wrong with the state that ``outcome`` chooses, or with the deadline of its wait; else None."""
        lifecycle, until = self.model.__lifecycle__, outcome.until
        state = outcome.into or self.step.done
        if state != self.step.done and (self.step.running, state) not in lifecycle.also:
            return f"chose {state!r}, to which its step does not lead"
        wait = lifecycle.wait(state)
        if wait is None:
            return None if until is None else f"gave a deadline, but {state!r} is no wait"
        if until is None and wait.lasts is None:
            return f"gave no deadline, and the wait {state!r} has none by default"
        if isinstance(until, datetime) and until.tzinfo is None:
            return "gave a deadline without a time zone"
        return None


class UnknownStageError(Refusal, LookupError):
    """No handler is registered under that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        remedy = f"known stages: {', '.join(sorted(known)) or 'none'}"
        super().__init__(f"stage {name!r} is not registered", remedy=remedy)
        self.problem = Problem("stage", "is not registered", repr(name), remedy)


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
        """Register ``stage``; raise ValueError for a second handler of the same name."""
        if (first := self._stages.get(stage.name)) is not None:
            raise ValueError(f"stage {stage.name!r} is registered twice; the first handler is {_place(first.handler)}")
        self._stages[stage.name] = stage

    def forget_unloaded(self) -> None:
        """Drop the stages of files that failed after registering them, so that a second discovery can register them."""
        self._stages = {name: one for name, one in self._stages.items() if one.handler.__module__ in sys.modules}


registry = Registry()


def stage(
    name: str,
    *,
    of: type[J],
    payload: type[BaseModel],
    limit: Limit | None = None,
    timeout: timedelta = timedelta(minutes=5),
    gate: str | None = None,
    calls: Literal["chat", "embeddings"] | None = None,
    sql: SqlDoor | None = None,
    searchable: Iterable[str] = (),
    into: Registry = registry,
) -> Callable[[Handler[J]], Handler[J]]:
    """Register the decorated coroutine function as the handler of ``name``, a step of ``of``'s lifecycle.

    ``payload`` is what the doors accept: its fields are columns of ``of``. ``timeout`` limits one run if the row has no
    ``timeout_seconds`` of its own. ``calls``, ``gate``, ``sql`` and ``searchable`` are those of :class:`Stage`. The
    table needs the index of its gate (``migrations.kernel.v4.gates``) and, for each searchable column, one that begins
    with this column and the id; a revision opens a stage to SQL (``migrations.kernel.v5``).
    """

    def register(handler: Handler[J]) -> Handler[J]:
        own = frozenset(attribute.key for attribute in inspect(of).column_attrs)
        _check_handler(name, handler)
        named = {*payload.model_fields, *([limit.column] if limit else []), *([gate] if gate else [])}
        named |= {*(sql.results if sql else ()), *searchable}
        _check_columns(name, of, own, named)
        settable = own - lifecycle_attributes(of) - frozenset(payload.model_fields)
        step = of.__lifecycle__.step(name)
        if sql is not None:
            describe_door(sql, payload, of)  # raises here, not in the migration
        found = frozenset(searchable)
        into.add(Stage(name, of, step, handler, payload, limit, timeout, settable, gate, calls, sql, found))
        return handler

    return register


def discover(package: str = "workers") -> Registry:
    """Import every module below ``package``, except the rooms without handlers; return the registry that they filled.

    The handlers of installed domains are imported too. Raise BrokenHandlers if any handler cannot be loaded: a system
    with only some of its stages would lose work silently.
    """
    broken = load_all(package, without=frozenset({"runtime", "transport", "llm"})) | load_installed()
    if broken:
        registry.forget_unloaded()
        raise BrokenHandlers(broken)
    return registry


def _check_handler(name: str, handler: Callable[..., object]) -> None:
    """Raise TypeError unless the handler is an async function of a job and its context."""
    rule = f"the handler of {name!r} must be an async function of a job and its context"
    if not python.iscoroutinefunction(handler):
        raise TypeError(f"{rule}, got {_place(handler)}, which is not async")
    try:
        python.signature(handler).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{rule}, got {_place(handler)}: {error}") from None


def _check_columns(name: str, of: type[Job], own: frozenset[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - own):
        raise TypeError(f"stage {name!r} names {', '.join(map(repr, missing))}, no column of {of.__name__}")


def _place(handler: Callable[..., object]) -> str:
    """Return the name, file and line of a handler."""
    code = getattr(handler, "__code__", None)
    name = getattr(handler, "__name__", repr(handler))
    return f"{name} ({code.co_filename}, line {code.co_firstlineno})" if code else name
