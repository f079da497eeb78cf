"""Have one request's texts embedded, whatever becomes of it: tried again, followed to another model, taken apart."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from uuid import UUID

from workers.runtime.backoff import full_jitter
from workers.runtime.errors import Permanent, RateLimited, describe
from workers.runtime.ports import LanguageModel
from workers.vectorization.batches import Pending
from workers.vectorization.pending import Embedded

Deliver = Callable[[Embedded], Awaitable[None]]

ATTEMPTS = 5
BASE, CEILING = timedelta(seconds=0.5), timedelta(seconds=8)
# A text that any model embeds: refused, it is not the text.
PROBE = "text"


class Asker:
    """Asks ``llm`` for vectors, and knows by record the texts that it refuses: ``refused``, with the reason."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self.refused: dict[UUID, str] = {}

    async def dimension(self, model: str) -> int:
        """Return the length of ``model``'s vectors."""
        answer = await self._llm.embed([PROBE], model=model)
        return len(answer.vectors[0])

    async def ask(self, records: Sequence[Pending], model: str, deliver: Deliver) -> None:
        """Deliver the vectors of ``records`` as they come; raise what stands against all of them.

        What the provider refuses, though it takes other texts, is halved until each text to blame stands alone.
        """
        try:
            await deliver(await self._embedded(records, model))
        except Permanent as error:
            await self._llm.embed([PROBE], model=await self._llm.embedding_model())
            await self._take_apart(records, model, deliver, error)

    async def _take_apart(self, records: Sequence[Pending], model: str, deliver: Deliver, error: Permanent) -> None:
        if len(records) == 1:
            self.refused[records[0].id] = describe(error)
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            try:
                await deliver(await self._embedded(half, model))
            except Permanent as again:
                await self._take_apart(half, model, deliver, again)

    async def _embedded(self, records: Sequence[Pending], model: str) -> Embedded:
        """Ask up to five times; where the embedding model has changed meanwhile, the new one."""
        attempt = 1
        while True:
            try:
                answer = await self._llm.embed([record.content for record in records], model=model)
            except RateLimited:
                raise
            except Exception as error:
                current = await self._llm.embedding_model()
                if current == model:
                    if isinstance(error, Permanent) or attempt == ATTEMPTS:
                        raise
                    wait = full_jitter(attempt, draw=random.random, base=BASE, ceiling=CEILING)
                    await asyncio.sleep(wait.total_seconds())
                attempt, model = min(attempt + 1, ATTEMPTS), current
            else:
                return Embedded([record.id for record in records], answer.vectors, answer.model)
