"""The passages of the guidelines that are nearest to each record: by its own vector, or by one made on the way."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from workers.analytics.alignment import Record
from workers.analytics.guidelines import Guidelines, Retrieved, forget
from workers.longrun.cutting import cut
from workers.longrun.isolating import PROBE, isolate_refused
from workers.longrun.retrying import with_retries
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, Refused, Retryable, describe

TOP_PASSAGES = 5
# What stands for a record's meaning where it has no vector of its own yet.
EMBEDDED_CHARS = 6_000

Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class Asked:
    """A record with the passages to judge it by, or why none could be found."""

    record: Record
    found: Sequence[Retrieved] | Refused


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Finds passages of ``guidelines`` for records of one run."""

    ctx: Context
    guidelines: Guidelines

    async def of(self, page: Sequence[tuple[Record, Vector | None]]) -> AsyncGenerator[Asked]:
        """Yield each record with its passages: first those that have a vector that fits, then others as they get one.

        An error that concerns all of them is raised after every record that has its vector is yielded.
        """
        missing: list[Record] = []
        for record, vector in page:
            if vector is not None and self.guidelines.fits(vector):
                yield Asked(record, self._nearest(vector))
            else:
                missing.append(record)
        for batch in cut(missing, _text, limits=self.ctx.llm.embedding_limits):
            vectors = await self._vectors([_text(record) for record in batch])
            for record, made in zip(batch, vectors, strict=True):
                yield Asked(record, made if isinstance(made, Refused) else self._nearest(made))

    async def _vectors(self, texts: Sequence[str]) -> list[Vector | Refused]:
        """Return a vector for each text, or why it has none. Raise an error that concerns any text."""
        made: dict[int, Vector | Refused] = {}

        async def embed(places: Sequence[int]) -> None:
            vectors = await self._embedded([texts[place] for place in places])
            made.update(zip(places, vectors, strict=True))

        def refuse(place: int, error: Permanent) -> None:
            made[place] = Refused(describe(error))

        await isolate_refused(range(len(texts)), embed, probe=self._probe, refuse=refuse)
        return [made[place] for place in range(len(texts))]

    async def _probe(self) -> None:
        await self._require_same_model()
        await self._embedded([PROBE])

    async def _embedded(self, texts: Sequence[str]) -> list[Vector]:
        model = self.guidelines.embedding_model
        vectors = (await with_retries(partial(self.ctx.llm.embed, texts, model=model, purpose="query"))).vectors
        if not all(map(self.guidelines.fits, vectors)):
            await forget(self.ctx, self.guidelines)
            raise Retryable(f"embedding model {model!r} changed its vectors; the guidelines are embedded anew")
        return list(vectors)

    async def _require_same_model(self) -> None:
        model = self.guidelines.embedding_model
        if (now := await self.ctx.llm.embedding_model()) != model:
            raise Retryable(f"embedding model changed from {model!r} to {now!r}; it goes on with the new")

    def _nearest(self, vector: Vector) -> list[Retrieved]:
        return self.guidelines.nearest(vector, at_most=TOP_PASSAGES)


def _text(record: Record) -> str:
    return record.content[:EMBEDDED_CHARS]
