"""A document's passages with their vectors, kept request by request as they are embedded."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.postgresql import insert

from models.operations import GuidelinePassage
from workers.analytics.batches import batches
from workers.analytics.passages import Passage
from workers.analytics.patience import patiently
from workers.runtime.database import outlasting
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import RateLimited


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

        return await outlasting(read)

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
        waiting = deque(batches(missing, lambda passage: passage.content, limits=limits))

        async def ask() -> None:
            while waiting:
                batch = waiting.popleft()
                texts = [passage.content for passage in batch]
                try:
                    answer = await patiently(partial(self.ctx.llm.embed, texts, model=self.model))
                    await outlasting(partial(self._keep, batch, answer.vectors, of=len(made), extent=extent))
                except BaseException:
                    waiting.clear()
                    raise

        ended = await asyncio.gather(*(ask() for _ in range(limits.requests)), return_exceptions=True)
        if errors := [error for error in ended if error is not None]:
            raise max(errors, key=_delay)  # of equals the first

    async def forget(self) -> None:
        """Delete what is kept."""

        async def delete_all() -> None:
            async with self.ctx.session() as session:
                await session.execute(delete(GuidelinePassage).where(*self._which))

        await outlasting(delete_all)

    async def _keep(
        self, batch: Sequence[Passage], vectors: Sequence[Sequence[float]], *, of: int, extent: Extent | None
    ) -> None:
        """Keep them; what another run kept first stays, being the same."""
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
            for passage, vector in zip(batch, vectors, strict=True)
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


def _delay(error: BaseException) -> float:
    return error.delay.total_seconds() if isinstance(error, RateLimited) else -1.0
