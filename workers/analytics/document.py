"""A document's passages with their vectors, kept request by request as they are embedded."""

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
class Extent:
    """How many pages a document has, and how many of them without text."""

    pages: int
    empty: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A passage that is embedded already. ``of``: so many has its document; older ones know no ``extent``."""

    passage: Passage
    of: int
    vector: Sequence[float]
    extent: Extent | None = None


@dataclass(frozen=True, slots=True)
class _Embedded:
    """The vectors that one request brought."""

    passages: Sequence[Passage]
    vectors: Sequence[Sequence[float]]


_Requests = InFlight[list[Passage], _Embedded]


def complete(found: Sequence[Kept]) -> bool:
    """Tell whether these are all passages of one document, with vectors of one length."""
    return bool(found) and {one.of for one in found} == {len(found)} and len({len(one.vector) for one in found}) == 1


@dataclass(frozen=True, slots=True)
class Document:
    """A document's passages as they are kept for one embedding model."""

    ctx: Context
    digest: bytes
    model: str

    async def kept(self) -> list[Kept]:
        """Return what is embedded, in order."""

        async def read() -> list[Kept]:
            async with self.ctx.session() as session:
                rows = await session.scalars(
                    select(GuidelinePassage).where(*self._which).order_by(GuidelinePassage.ordinal)
                )
                return [_kept(row) for row in rows]

        return await retry_while_away(read)

    async def embed(self, made: Sequence[Passage], found: Sequence[Kept], *, extent: Extent | None = None) -> None:
        """Embed and keep what is missing, as many requests at once as the provider likes.

        The first error ends it, after what is in flight has come and is kept. Of several the longest rate limit is
        raised, if there is any.
        """
        if any(one.of != len(made) for one in found):  # cut by another release of ours
            await self.forget()
            found = []
        there = {one.passage.number for one in found}
        missing = [passage for passage in made if passage.number not in there]
        limits = self.ctx.llm.embedding_limits

        async def requests() -> AsyncGenerator[list[Passage]]:
            for request in cut(missing, attrgetter("content"), limits=limits):
                yield request

        async with _Requests(requests(), self._ask, at_once=limits.requests) as in_flight:
            async for group in in_flight.groups(size=lambda embedded: len(embedded.passages)):
                await retry_while_away(partial(self._keep, group, of=len(made), extent=extent))

    async def _ask(self, passages: list[Passage], in_flight: _Requests) -> None:
        texts = [passage.content for passage in passages]
        answer = await with_retries(partial(self.ctx.llm.embed, texts, model=self.model))
        await in_flight.deliver(_Embedded(passages, answer.vectors))

    async def forget(self) -> None:
        """Delete what is kept."""

        async def delete_all() -> None:
            async with self.ctx.session() as session:
                await session.execute(delete(GuidelinePassage).where(*self._which))

        await retry_while_away(delete_all)

    async def _keep(self, group: Sequence[_Embedded], *, of: int, extent: Extent | None) -> None:
        """Keep them; what another run kept first stays, because it is the same."""
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


def _kept(row: GuidelinePassage) -> Kept:
    known = row.pages is not None and row.empty_pages is not None
    extent = Extent(row.pages or 0, row.empty_pages or 0) if known else None
    return Kept(Passage(row.ordinal, row.page, row.content), row.of, row.embedding, extent)
