"""Have one request's texts embedded, whatever becomes of it: tried again, followed to another model, taken apart."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from uuid import UUID

from workers.runtime.backoff import full_jitter
from workers.runtime.handler.errors import BrokenVectors, Permanent, RateLimited, Unavailable, UnfitVectors, describe
from workers.runtime.handler.ports import Embeddings, LanguageModel
from workers.vectorization.batches import Pending
from workers.vectorization.pending import Embedded

Deliver = Callable[[Embedded], Awaitable[None]]

ATTEMPTS = 5
BASE, CEILING = timedelta(seconds=0.5), timedelta(seconds=8)
# A text that any model embeds: refused, it is not the text.
PROBE = "text"


class Stopped(Exception):
    """Nothing more is to be asked; what had to be said against it is known already."""


class Asker:
    """Asks ``llm`` for vectors, and knows by record the texts that it refuses: ``refused``, with the reason.

    ``refused`` may be given what an earlier run found out, so that none of it is asked and taken apart again.
    """

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self.refused: dict[UUID, str] = {}

    async def dimension(self, model: str) -> int:
        """Return the length of ``model``'s vectors."""
        answer = await self._llm.embed([PROBE], model=model)
        return len(answer.vectors[0])

    async def ask(
        self, records: Sequence[Pending], model: str, deliver: Deliver, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Deliver the vectors of ``records`` as they come; raise what stands against all of them.

        What the provider refuses, though it takes other texts, is halved until each text to blame stands alone. Before
        each request ``stopped`` is asked; raise Stopped where it says so.
        """
        asking = _Asking(self._llm, model, deliver, stopped, self.refused)
        try:
            await asking.deliver(records)
        except Permanent as error:
            await asking.probe()
            await self._take_apart(records, asking, error)

    async def _take_apart(self, records: Sequence[Pending], asking: "_Asking", error: Permanent) -> None:
        if len(records) == 1:
            self.refused[records[0].id] = describe(error)
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            try:
                await asking.deliver(half)
            except Permanent as again:
                await self._take_apart(half, asking, again)


class _Asking:
    """What one request becomes: whom it was meant for, where its vectors go, whether it may go on."""

    def __init__(
        self, llm: LanguageModel, model: str, give: Deliver, stopped: Callable[[], bool], refused: dict[UUID, str]
    ) -> None:
        self._llm = llm
        self._model = model
        self._give = give
        self._stopped = stopped
        self._refused = refused

    async def deliver(self, records: Sequence[Pending]) -> None:
        """Ask up to five times; where the embedding model has changed meanwhile, the new one."""
        attempt, model = 1, self._model
        while True:
            try:
                answer = await self._embed([record.content for record in records], model)
            except (RateLimited, Stopped):
                raise
            except UnfitVectors as error:
                await self._deliver_fit(records, error)
                return
            except Exception as error:
                current = await self._llm.embedding_model()
                if current == model:
                    if isinstance(error, BrokenVectors) and attempt == ATTEMPTS:
                        await self._deliver_fit(records, error)
                        return
                    if isinstance(error, Permanent) or attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(_wait(attempt, error).total_seconds())
                attempt, model = min(attempt + 1, ATTEMPTS), current
            else:
                ids, digests = [record.id for record in records], [record.digest for record in records]
                await self._give(Embedded(ids, digests, answer.vectors, answer.model))
                return

    async def _deliver_fit(self, records: Sequence[Pending], error: UnfitVectors | BrokenVectors) -> None:
        """Deliver the vectors that can be compared, and note why each other text has none: it is not asked again.

        Raise what stands against any text: then it is not these texts.
        """
        await self.probe()
        found: Embeddings = error.embeddings
        fit = [place for place in range(len(records)) if place not in error.reasons]
        if fit:
            vectors = [found.vectors[place] for place in fit]
            ids, digests = [records[place].id for place in fit], [records[place].digest for place in fit]
            await self._give(Embedded(ids, digests, vectors, found.model))
        self._refused |= {
            records[place].id: f"its vector cannot be kept: {why}" for place, why in error.reasons.items()
        }

    async def probe(self) -> None:
        """Raise what stands against any text."""
        await self._embed([PROBE], await self._llm.embedding_model())

    async def _embed(self, texts: Sequence[str], model: str) -> Embeddings:
        if self._stopped():
            raise Stopped
        return await self._llm.embed(texts, model=model)


def _wait(attempt: int, error: Exception) -> timedelta:
    """Return how long to wait before a request is sent again; raise ``error`` where its provider is away for longer."""
    wait = full_jitter(attempt, draw=random.random, base=BASE, ceiling=CEILING)
    if isinstance(error, Unavailable) and (error.certain or error.paused):
        wait = max(wait, error.delay)
        if wait > CEILING:
            raise error
    return wait
