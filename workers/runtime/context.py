"""What a handler is given beside its job: who it runs as, the model provider, short sessions, progress."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.ports import LanguageModel


class Run(NamedTuple):
    """One claim of one job. ``version`` is the fence: every write of this run names it."""

    stage: str
    job_id: UUID
    version: int
    attempt: int


# The run that the current task performs, for what goes out on its behalf and must name its job. None outside of runs.
current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)


@dataclass(slots=True, kw_only=True)  # made once per run: frozen, it would take twice as long
class Context:
    """The surroundings of one run.

    ``session()`` opens a transaction that commits when its block ends well: keep it short, and never await a
    network inside. Rows that must commit with the outcome belong in ``Complete(write=…)`` instead.
    ``progress(n)`` stores 1–99 at once; under a lost fence it changes nothing.
    ``clock()`` is the database's time as this process knows it.
    """

    run: Run
    llm: LanguageModel
    session: Callable[[], AbstractAsyncContextManager[AsyncSession]]
    progress: Callable[[int], Awaitable[None]]
    clock: Callable[[], datetime]
