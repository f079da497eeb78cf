"""Ask one provider many questions from one process: ``python -m benchmarks.llm_calls '{options}'``.

Reads DATABASE_URL and OPENAI_BASE_URL. ``calls`` is how many, ``in_flight`` how many at once. With ``control``
each call is admitted and in the ledger, with ``keep`` its answer is kept too, as in a worker. Prints the rate and the
processor time as JSON.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from cli.provider import options, routing_of, worker_provider
from config.settings import Settings
from workers.llm.pauses import Gate
from workers.llm.provider import controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.tables import Rows
from workers.runtime.garbage import reduce_garbage_collection
from workers.runtime.handler.context import Run, current_run
from workers.runtime.handler.ports import LanguageModel, Message

MODEL = "bench"


class Verdict(BaseModel):
    """The answer of the model."""

    overall: float


async def ask(model: LanguageModel, number: int) -> None:
    """Ask one question of its own, as the run of a job of its own."""
    current_run.set(Run("bench.ask", uuid4(), 2, 0))
    question: list[Message] = [{"role": "user", "content": f"How good is {number}?"}]
    await model.parse(question, into=Verdict, model=MODEL)


async def ask_all(model: LanguageModel, *, calls: int, in_flight: int) -> None:
    """Ask ``calls`` questions, ``in_flight`` at once."""
    left = iter(range(calls))

    async def lane() -> None:
        for number in left:
            await asyncio.create_task(ask(model, number))  # a task of its own, as a run has: the context is its own

    await asyncio.gather(*(lane() for _ in range(in_flight)))


def _uncontrolled(settings: Settings) -> LanguageModel:
    """Return the same model without admission, ledger and kept answers."""

    async def look() -> Seen:
        return Seen(routing_of(settings, None, Rows()))

    return controlled(look=look, options=options(settings), gate=Gate())


async def measure(*, calls: int, in_flight: int, control: bool, keep: bool) -> dict[str, Any]:
    """Return the rate (calls per second) and the processor seconds of this process, without the time of starting."""
    settings = Settings()
    url = os.environ["DATABASE_URL"]
    if control:
        made = worker_provider(settings, database_url=url, name="bench", worker_id=uuid4())
        model: LanguageModel = made.model
        if not keep:
            made.model._kept = None  # noqa: SLF001 - workers always keep answers; this shows what that costs
    else:
        model = _uncontrolled(settings)
    reduce_garbage_collection()  # as a worker does
    try:
        await ask_all(model, calls=in_flight, in_flight=in_flight)  # opens the connections
        began, used = time.perf_counter(), time.process_time()
        await ask_all(model, calls=calls, in_flight=in_flight)
        return {"rate": calls / (time.perf_counter() - began), "cpu": time.process_time() - used}
    finally:
        await model.aclose()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(**json.loads(sys.argv[1])))))
