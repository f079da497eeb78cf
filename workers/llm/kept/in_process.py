"""The questions that runs of this process ask: one run asks each of them, the others wait for its answer."""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from workers.llm.kept.answers import KeptAnswer
from workers.llm.kept.questions import AskedElsewhereError, Question

NEXT_LOOK_DELAY = timedelta(seconds=2)


@dataclass(slots=True, eq=False)
class _Asked:
    """A question that a task asks; ``answered`` has its answer, or None if another must ask."""

    job_id: UUID | None
    task: "asyncio.Task[Any]"
    answered: "asyncio.Future[KeptAnswer | None]"


class InProcess:
    """One question of each key at a time."""

    def __init__(self) -> None:
        self._asked: dict[object, _Asked] = {}

    async def enter(self, question: Question, give_up: float) -> KeptAnswer | None:
        """Return the answer that another run got meanwhile; None if this one is to go on, until it leaves.

        Raise AskedElsewhereError at ``give_up``, in monotonic time.
        """
        while (other := self._asked.get(question.key)) is not None and not other.task.done():
            both: set[asyncio.Future[Any]] = {other.answered, other.task}
            await asyncio.wait(
                both,
                timeout=max(give_up - time.monotonic(), 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if other.answered.done():
                if (found := other.answered.result()) is not None:
                    return found
            elif not other.task.done():
                raise AskedElsewhereError(other.job_id, delay=NEXT_LOOK_DELAY)
        task = asyncio.current_task()
        assert task is not None
        answered: asyncio.Future[KeptAnswer | None] = asyncio.get_running_loop().create_future()
        self._asked[question.key] = _Asked(question.caller.job_id, task, answered)
        return None

    def leave(self, question: Question, answer: KeptAnswer | None) -> None:
        """Give ``answer`` to those who wait, or let one of them ask."""
        asked = self._asked.get(question.key)
        if asked is None or asked.job_id != question.caller.job_id:
            return
        del self._asked[question.key]
        if not asked.answered.done():
            found = answer
            if found is not None and found.job_id is None:
                found = replace(found, job_id=question.caller.job_id)
            asked.answered.set_result(found)
