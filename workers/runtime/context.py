"""What a handler is given beside its job: who it runs as, the model provider, short sessions, progress."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.ports import LanguageModel


@dataclass(frozen=True, slots=True)
class Run:
    """One claim of one job. ``version`` is the fence: every write of this run names it."""

    stage: str
    job_id: UUID
    version: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
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
