"""Have one request's texts embedded: tried again, sent to another model after a switch, or sent one by one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from workers.longrun.in_flight import InFlight, Stopped
from workers.longrun.isolating import PROBE, isolate_refused
from workers.longrun.retrying import Retries, wait_before_retry
from workers.runtime.handler.errors import BrokenVectors, Permanent, RateLimited, UnfitVectors, describe
from workers.runtime.handler.ports import Embeddings, LanguageModel
from workers.vectorization.pending import Embedded, Pending

RETRIES = Retries(attempts=5, base=timedelta(seconds=0.5), ceiling=timedelta(seconds=8))


@dataclass(frozen=True, slots=True)
class Request:
    """Records that are embedded together, by the model that was current when they were read."""

    records: list[Pending]
    model: str


Requests = InFlight[Request, Embedded]


class Asker:
    """Asks ``llm`` for vectors, and collects the texts that it refuses, by record and with the reason: ``refused``.

    An earlier run's ``refused`` may be put there, so that these texts are not asked for and isolated again.
    """

    def __init__(self, llm: LanguageModel, retries: Retries = RETRIES) -> None:
        self._llm = llm
        self._retries = retries
        self.refused: dict[UUID, str] = {}

    async def dimension(self, model: str) -> int:
        """Return the length of ``model``'s vectors."""
        answer = await self._llm.embed([PROBE], model=model)
        return len(answer.vectors[0])

    async def ask(self, request: Request, requests: Requests) -> None:
        """Deliver the vectors of a request to ``requests`` as they come; raise the error that concerns all its texts.

        If the provider refuses these texts and takes others, they are halved until each text to blame stands alone.
        """
        asking = _Asking(self._llm, request.model, requests, self._retries, self.refused)
        await isolate_refused(request.records, asking.deliver, probe=asking.probe, refuse=self._refuse)

    def _refuse(self, record: Pending, error: Permanent) -> None:
        self.refused[record.id] = describe(error)


class _Asking:
    """How one request is asked, and who is given its vectors."""

    def __init__(
        self, llm: LanguageModel, model: str, requests: Requests, retries: Retries, refused: dict[UUID, str]
    ) -> None:
        self._llm = llm
        self._model = model
        self._requests = requests
        self._retries = retries
        self._refused = refused

    async def deliver(self, records: Sequence[Pending]) -> None:
        """Ask up to five times; if the embedding model has changed meanwhile, ask the new one."""
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
                last = attempt == self._retries.attempts
                current = await self._llm.embedding_model()
                if current == model:
                    if isinstance(error, BrokenVectors) and last:
                        await self._deliver_fit(records, error)
                        return
                    if isinstance(error, Permanent) or last:
                        raise
                    await asyncio.sleep(wait_before_retry(attempt, error, self._retries).total_seconds())
                attempt, model = min(attempt + 1, self._retries.attempts), current
            else:
                ids, digests = [record.id for record in records], [record.digest for record in records]
                await self._requests.deliver(Embedded(ids, digests, answer.vectors, answer.model))
                return

    async def _deliver_fit(self, records: Sequence[Pending], error: UnfitVectors | BrokenVectors) -> None:
        """Deliver the vectors that can be compared, and note why each other text has none: it is not asked again.

        Raise the error of the probe if any text would fail: then these texts are not to blame.
        """
        await self.probe()
        found: Embeddings = error.embeddings
        fit = [place for place in range(len(records)) if place not in error.reasons]
        if fit:
            vectors = [found.vectors[place] for place in fit]
            ids, digests = [records[place].id for place in fit], [records[place].digest for place in fit]
            await self._requests.deliver(Embedded(ids, digests, vectors, found.model))
        self._refused |= {
            records[place].id: f"its vector cannot be kept: {why}" for place, why in error.reasons.items()
        }

    async def probe(self) -> None:
        """Raise the error that any text would meet."""
        await self._embed([PROBE], await self._llm.embedding_model())

    async def _embed(self, texts: Sequence[str], model: str) -> Embeddings:
        self._requests.raise_if_stopped()
        return await self._llm.embed(texts, model=model)
