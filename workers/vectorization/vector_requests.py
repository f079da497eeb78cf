"""Send the requests for vectors: repeat them, send them to a new model after a change, or halve them."""

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
from workers.vectorization.pending import EmbeddedRecords, PendingRecord

REQUEST_RETRIES = Retries(attempts=5, base=timedelta(seconds=0.5), ceiling=timedelta(seconds=8))


@dataclass(frozen=True, slots=True)
class VectorRequest:
    """Records that are embedded together, and the model that was current when they were read."""

    records: list[PendingRecord]
    model: str


VectorRequests = InFlight[VectorRequest, EmbeddedRecords]


class VectorRequester:
    """Asks ``llm`` for vectors. ``refused`` collects the records with a refused text, each with the reason.

    Put the ``refused`` of an earlier run there, so that these texts are not sent again.
    """

    def __init__(self, llm: LanguageModel, retries: Retries = REQUEST_RETRIES) -> None:
        self._llm = llm
        self._retries = retries
        self.refused: dict[UUID, str] = {}

    async def dimension(self, model: str) -> int:
        """Return the length of ``model``'s vectors."""
        answer = await self._llm.embed([PROBE], model=model)
        return len(answer.vectors[0])

    async def ask(self, request: VectorRequest, requests: VectorRequests) -> None:
        """Deliver the vectors of a request to ``requests`` as they come; raise an error that concerns all texts.

        If the provider refuses these texts but accepts others, the request is halved until each refused text is found.
        """
        sender = _RequestSender(self._llm, request.model, requests, self._retries, self.refused)
        await isolate_refused(request.records, sender.deliver, probe=sender.probe, refuse=self._refuse)

    def _refuse(self, record: PendingRecord, error: Permanent) -> None:
        self.refused[record.id] = describe(error)


class _RequestSender:
    """Sends one request and delivers its vectors."""

    def __init__(
        self, llm: LanguageModel, model: str, requests: VectorRequests, retries: Retries, refused: dict[UUID, str]
    ) -> None:
        self._llm = llm
        self._model = model
        self._requests = requests
        self._retries = retries
        self._refused = refused

    async def deliver(self, records: Sequence[PendingRecord]) -> None:
        """Send the request up to five times. If the embedding model has changed meanwhile, use the new one."""
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
                await self._requests.deliver(EmbeddedRecords(ids, digests, answer.vectors, answer.model))
                return

    async def _deliver_fit(self, records: Sequence[PendingRecord], error: UnfitVectors | BrokenVectors) -> None:
        """Deliver the vectors that can be compared, and record why the other texts have none. They are not sent again.

        If even the probe fails, raise its error, because then the fault is not in these texts.
        """
        await self.probe()
        found: Embeddings = error.embeddings
        fit = [place for place in range(len(records)) if place not in error.reasons]
        if fit:
            vectors = [found.vectors[place] for place in fit]
            ids, digests = [records[place].id for place in fit], [records[place].digest for place in fit]
            await self._requests.deliver(EmbeddedRecords(ids, digests, vectors, found.model))
        self._refused |= {
            records[place].id: f"its vector cannot be stored: {why}" for place, why in error.reasons.items()
        }

    async def probe(self) -> None:
        """Send a text that is known to work; raise its error."""
        await self._embed([PROBE], await self._llm.embedding_model())

    async def _embed(self, texts: Sequence[str], model: str) -> Embeddings:
        self._requests.raise_if_stopped()
        return await self._llm.embed(texts, model=model)
