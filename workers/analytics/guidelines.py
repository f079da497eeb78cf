"""A project's guidelines: its PDF as passages with their vectors, made once per document and embedding model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import Project
from workers.analytics.document import Document, Extent, Kept, complete
from workers.analytics.passages import Passage, empty_pages, passages
from workers.analytics.pdf import extracted
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, Retryable

# A million words; a book of 400 pages has 500 passages.
MOST_PASSAGES = 5_000


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A passage found for a record; ``score`` is their cosine similarity."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Guidelines:
    """A document ready to be searched. ``vectors`` is a matrix of unit vectors, one row per passage.

    ``warning`` says what of the document has no text.
    """

    document_hash: bytes
    passages: Sequence[Passage]
    vectors: Any
    embedding_model: str
    warning: str | None = None

    def fits(self, vector: Sequence[float] | None) -> bool:
        """Tell whether ``vector`` can be compared with the passages': models change their dimension."""
        return vector is not None and len(vector) == self.vectors.shape[1]

    def nearest(self, vector: Sequence[float], *, at_most: int) -> list[Retrieved]:
        """Return the passages most like ``vector``, the most like first, equals in the document's order."""
        import numpy as np  # noqa: PLC0415 - 0.2 s that a worker without analytics need not spend

        scores = self.vectors @ _unit(np.asarray([vector], dtype=np.float32))[0]
        best = np.argsort(-scores, kind="stable")[:at_most]
        return [Retrieved(self.passages[index], round(float(scores[index]), 4)) for index in best]


async def load(ctx: Context, pdf: bytes) -> Guidelines:
    """Return the guidelines of this document.

    Extracted and embedded at the first use only, then found by the document's hash and the model. What is embedded is
    kept request by request: a run that ends in the midst of it leaves the rest to the next. Raises Permanent where the
    PDF cannot be read. What takes long for a large document, a thread does.
    """
    digest = (await asyncio.to_thread(sha256, pdf)).digest()
    document = Document(ctx, digest, await ctx.llm.embedding_model())
    found = await document.kept()
    if not complete(found):
        pages = await extracted(pdf)
        made = await asyncio.to_thread(passages, pages)
        _check(made, pages)
        await document.embed(made, found, extent=Extent(len(pages), empty_pages(pages)))
        found = await document.kept()
        if not complete(found):  # another run took them away, or the model makes vectors of another length by now
            await document.forget()
            raise Retryable(f"embedding model {document.model!r} changed its vectors; the guidelines are embedded anew")
    return await asyncio.to_thread(_ready, digest, found, document.model)


async def are_set(session: AsyncSession, project_id: UUID) -> bool:
    """Tell whether a project has guidelines, without reading them."""
    there = Project.guidelines.is_not(None) & (Project.guidelines != "")
    return bool(await session.scalar(select(there).where(Project.id == project_id)))


async def problem_of(pdf: bytes) -> str | None:
    """Return why an analysis could read nothing of ``pdf``, or not all pages; None where it reads each page."""
    try:
        pages = await extracted(pdf)
    except Permanent as error:
        return f"no analysis can read them: {error}"
    return without_text(len(pages), empty_pages(pages))


def without_text(pages: int, empty: int) -> str | None:
    """Return what is said of guidelines with pages that have no text, None where each has some."""
    if not empty:
        return None
    return (
        f"{empty} of {pages} pages {'has' if pages == 1 else 'have'} no text, so what they say is not known: "
        "pictures of pages must be given a text layer"
    )


def _check(made: Sequence[Passage], pages: Sequence[str]) -> None:
    if not made:
        raise Permanent(
            "guidelines have no text: a PDF with a text layer is needed, not pictures of pages; "
            f"{len(pages)} of {len(pages)} pages have none"
        )
    if len(made) > MOST_PASSAGES:
        raise Permanent(f"guidelines must have at most {MOST_PASSAGES} passages, got {len(made)}")


def _ready(digest: bytes, found: Sequence[Kept], model: str) -> Guidelines:
    import numpy as np  # noqa: PLC0415 - as above

    # Row by row: of all at once it would let no other thread have a turn.
    matrix = _unit(np.stack([np.asarray(one.vector, dtype=np.float32) for one in found]))
    extent = found[0].extent
    warning = None if extent is None else without_text(extent.pages, extent.empty)
    return Guidelines(digest, [one.passage for one in found], matrix, model, warning)


def _unit(matrix: Any) -> Any:
    """Return ``matrix`` with rows of length one; a row of zeros stays so, like nothing."""
    import numpy as np  # noqa: PLC0415 - as above

    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths == 0, 1, lengths)


async def forget(ctx: Context, guidelines: Guidelines) -> None:
    """Have these passages embedded anew at their next use: their model's vectors have another length by now."""
    await Document(ctx, guidelines.document_hash, guidelines.embedding_model).forget()
