"""Find the passages of the guidelines that are nearest to each record: by its vector, or by a temporary one."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from workers.analytics.alignment import RecordToJudge
from workers.analytics.guidelines import Guidelines, Retrieved, forget
from workers.longrun.cutting import cut
from workers.longrun.isolating import PROBE, isolate_refused
from workers.longrun.retrying import with_retries
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, Refused, Retryable, describe

MAX_PASSAGES_PER_RECORD = 5
# A record without a vector is embedded by this much of its beginning.
MAX_EMBEDDED_CHARS = 6_000

VectorNumbers = Sequence[float]


@dataclass(frozen=True, slots=True)
class RecordWithPassages:
    """A record with the passages to judge it by, or the reason why there are none."""

    record: RecordToJudge
    found: Sequence[Retrieved] | Refused


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Finds passages of ``guidelines`` for the records of one run."""

    ctx: Context
    guidelines: Guidelines

    async def find(
        self, page: Sequence[tuple[RecordToJudge, VectorNumbers | None]]
    ) -> AsyncGenerator[RecordWithPassages]:
        """Yield each record with its passages: first the records with a usable vector, then the others.

        An error that concerns every text is raised only after the records with a usable vector are yielded.
        """
        missing: list[RecordToJudge] = []
        for record, vector in page:
            if vector is not None and self.guidelines.fits(vector):
                yield RecordWithPassages(record, self._nearest(vector))
            else:
                missing.append(record)
        for batch in cut(missing, _text, limits=self.ctx.llm.embedding_limits):
            vectors = await self._vectors([_text(record) for record in batch])
            for record, made in zip(batch, vectors, strict=True):
                yield RecordWithPassages(record, made if isinstance(made, Refused) else self._nearest(made))

    async def _vectors(self, texts: Sequence[str]) -> list[VectorNumbers | Refused]:
        """Return a vector for each text, or why it has none; raise an error that concerns every text."""
        made: dict[int, VectorNumbers | Refused] = {}

        async def embed(places: Sequence[int]) -> None:
            vectors = await self._embed([texts[place] for place in places])
            made.update(zip(places, vectors, strict=True))

        def refuse(place: int, error: Permanent) -> None:
            made[place] = Refused(describe(error))

        await isolate_refused(range(len(texts)), embed, probe=self._probe, refuse=refuse)
        return [made[place] for place in range(len(texts))]

    async def _probe(self) -> None:
        await self._require_same_model()
        await self._embed([PROBE])

    async def _embed(self, texts: Sequence[str]) -> list[VectorNumbers]:
        model = self.guidelines.embedding_model
        vectors = (await with_retries(partial(self.ctx.llm.embed, texts, model=model, purpose="query"))).vectors
        if not all(map(self.guidelines.fits, vectors)):
            await forget(self.ctx, self.guidelines)
            raise Retryable(f"embedding model {model!r} changed its vectors; the guidelines are embedded again")
        return list(vectors)

    async def _require_same_model(self) -> None:
        model = self.guidelines.embedding_model
        if (now := await self.ctx.llm.embedding_model()) != model:
            raise Retryable(f"embedding model changed from {model!r} to {now!r}; the next run uses the new one")

    def _nearest(self, vector: VectorNumbers) -> list[Retrieved]:
        return self.guidelines.nearest(vector, at_most=MAX_PASSAGES_PER_RECORD)


def _text(record: RecordToJudge) -> str:
    return record.content[:MAX_EMBEDDED_CHARS]
