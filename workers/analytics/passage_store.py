"""Store a document's passages with their vectors. Each request is stored when it is answered."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.postgresql import insert

from models.operations import GuidelinePassage
from workers.analytics.passages import Passage
from workers.longrun.cutting import cut
from workers.longrun.in_flight import InFlight
from workers.longrun.retrying import with_retries
from workers.runtime.database import retry_while_away
from workers.runtime.handler.context import Context


@dataclass(frozen=True, slots=True)
class PageCounts:
    """How many pages a document has, and how many of them have no text."""

    pages: int
    empty: int


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """An embedded passage. ``of`` is the number of passages of its document. ``extent`` is None in older rows."""

    passage: Passage
    of: int
    vector: Sequence[float]
    extent: PageCounts | None = None


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The vectors of one request."""

    passages: Sequence[Passage]
    vectors: Sequence[Sequence[float]]


_Requests = InFlight[list[Passage], _Embedded]


def is_complete(found: Sequence[StoredPassage]) -> bool:
    """Return whether these are all passages of one document, with vectors of one length."""
    return bool(found) and {one.of for one in found} == {len(found)} and len({len(one.vector) for one in found}) == 1


@dataclass(frozen=True, slots=True)
class PassageStore:
    """The stored passages of one document for one embedding model."""

    ctx: Context
    digest: bytes
    model: str

    async def load(self) -> list[StoredPassage]:
        """Return the embedded passages, in order."""

        async def read() -> list[StoredPassage]:
            async with self.ctx.session() as session:
                rows = await session.scalars(
                    select(GuidelinePassage).where(*self._which).order_by(GuidelinePassage.ordinal)
                )
                return [_stored_passage(row) for row in rows]

        return await retry_while_away(read)

    async def embed(
        self, made: Sequence[Passage], found: Sequence[StoredPassage], *, extent: PageCounts | None = None
    ) -> None:
        """Embed and store the missing passages, with as many requests at once as the provider allows.

        The first error ends this, after the requests in flight are answered and stored. Of several errors, the longest
        rate limit is raised, if there is one.
        """
        if any(one.of != len(made) for one in found):  # an older release cut the text differently
            await self.forget()
            found = []
        stored = {one.passage.number for one in found}
        missing = [passage for passage in made if passage.number not in stored]
        limits = self.ctx.llm.embedding_limits

        async def requests() -> AsyncGenerator[list[Passage]]:
            for request in cut(missing, attrgetter("content"), limits=limits):
                yield request

        async with _Requests(requests(), self._ask, at_once=limits.requests) as in_flight:
            async for group in in_flight.groups(size=lambda embedded: len(embedded.passages)):
                await retry_while_away(partial(self._save, group, of=len(made), extent=extent))

    async def _ask(self, passages: list[Passage], in_flight: _Requests) -> None:
        texts = [passage.content for passage in passages]
        answer = await with_retries(partial(self.ctx.llm.embed, texts, model=self.model))
        await in_flight.deliver(_Embedded(passages, answer.vectors))

    async def forget(self) -> None:
        """Delete the stored passages."""

        async def delete_all() -> None:
            async with self.ctx.session() as session:
                await session.execute(delete(GuidelinePassage).where(*self._which))

        await retry_while_away(delete_all)

    async def _save(self, group: Sequence[_Embedded], *, of: int, extent: PageCounts | None) -> None:
        """Store them. Rows that another run stored first stay, because they are the same."""
        rows = [
            {
                "document_hash": self.digest,
                "embedding_model": self.model,
                "ordinal": passage.number,
                "of": of,
                "page": passage.page,
                "pages": None if extent is None else extent.pages,
                "empty_pages": None if extent is None else extent.empty,
                "content": passage.content,
                "embedding": [float(number) for number in vector],
            }
            for embedded in group
            for passage, vector in zip(embedded.passages, embedded.vectors, strict=True)
        ]
        async with self.ctx.session() as session:
            await session.execute(insert(GuidelinePassage).on_conflict_do_nothing(), rows)

    @property
    def _which(self) -> tuple[ColumnElement[bool], ...]:
        return GuidelinePassage.document_hash == self.digest, GuidelinePassage.embedding_model == self.model


def _stored_passage(row: GuidelinePassage) -> StoredPassage:
    known = row.pages is not None and row.empty_pages is not None
    extent = PageCounts(row.pages or 0, row.empty_pages or 0) if known else None
    return StoredPassage(Passage(row.ordinal, row.page, row.content), row.of, row.embedding, extent)
