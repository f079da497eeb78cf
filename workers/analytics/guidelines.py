"""A project's guidelines: the passages of its PDF with vectors, made once per document and embedding model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import Project
from workers.analytics.passage_store import PageCounts, PassageStore, StoredPassage, is_complete
from workers.analytics.passages import Passage, empty_pages, split_passages
from workers.analytics.pdf import decode_guidelines, extract_pages
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.refusals import NotFound

# A million words. A book of 400 pages has 500 passages.
MAX_PASSAGES = 5_000


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A passage found for a record; ``score`` is their cosine similarity."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Guidelines:
    """A document that can be searched. ``vectors`` is a matrix of unit vectors, one row per passage.

    ``warning`` says how many pages have no text.
    """

    document_hash: bytes
    passages: Sequence[Passage]
    vectors: Any
    embedding_model: str
    warning: str | None = None

    def fits(self, vector: Sequence[float] | None) -> bool:
        """Return whether ``vector`` can be compared with the passages: a model may change the length of its vectors."""
        return vector is not None and len(vector) == self.vectors.shape[1]

    def nearest(self, vector: Sequence[float], *, at_most: int) -> list[Retrieved]:
        """Return the passages most similar to ``vector``, best first; equal ones in the document's order."""
        import numpy as np  # noqa: PLC0415 - takes 0.2 s, which a worker without analytics does not need

        scores = self.vectors @ _unit(np.asarray([vector], dtype=np.float32))[0]
        best = np.argsort(-scores, kind="stable")[:at_most]
        return [Retrieved(self.passages[index], round(float(scores[index]), 4)) for index in best]


async def load_guidelines(ctx: Context, pdf: bytes) -> Guidelines:
    """Return the guidelines in this PDF; raise Permanent if it cannot be read.

    The text is extracted and embedded only at the first use. Later the passages are found by the document's hash and
    the model. Each request is stored when it is answered: if a run ends before all are embedded, the next run embeds
    only the rest. Work that takes long for a large document runs in a thread.
    """
    digest = (await asyncio.to_thread(sha256, pdf)).digest()
    store = PassageStore(ctx, digest, await ctx.llm.embedding_model())
    found = await store.load()
    if not is_complete(found):
        pages = await extract_pages(pdf)
        made = await asyncio.to_thread(split_passages, pages)
        _check(made, pages)
        await store.embed(made, found, extent=PageCounts(len(pages), empty_pages(pages)))
        found = await store.load()
        if not is_complete(found):  # another run deleted them, or the model makes vectors of another length now
            await store.forget()
            raise Retryable(f"embedding model {store.model!r} changed its vectors; the guidelines are embedded again")
    return await asyncio.to_thread(_ready, digest, found, store.model)


@dataclass(frozen=True, slots=True)
class GuidelinesFile:
    """The guidelines of a project as they were given."""

    name: str
    pdf: bytes


async def read_file(session: AsyncSession, project_id: UUID) -> GuidelinesFile:
    """Return the PDF of a project; raise NotFound if it has none, or if it is not readable base64."""
    columns = select(Project.name, Project.guidelines_file_name, Project.guidelines)
    found = (await session.execute(columns.where(Project.id == project_id))).one_or_none()
    if found is None:
        raise NotFound(f"project {project_id} does not exist (any more)")
    project, name, encoded = found
    try:
        pdf = await asyncio.to_thread(decode_guidelines, encoded, project=project)
    except Permanent as error:
        raise NotFound(str(error)) from None
    return GuidelinesFile(name or "guidelines.pdf", pdf)


async def are_set(session: AsyncSession, project_id: UUID) -> bool:
    """Return whether a project has guidelines, without reading them."""
    has_guidelines = Project.guidelines.is_not(None) & (Project.guidelines != "")
    return bool(await session.scalar(select(has_guidelines).where(Project.id == project_id)))


async def problem_of(pdf: bytes) -> str | None:
    """Return why an analysis cannot read ``pdf`` or some of its pages; None if it can read every page."""
    try:
        pages = await extract_pages(pdf)
    except Permanent as error:
        return f"no analysis can read them: {error}"
    return empty_pages_warning(len(pages), empty_pages(pages))


def empty_pages_warning(pages: int, empty: int) -> str | None:
    """Return the warning about pages without text; None if every page has text."""
    if not empty:
        return None
    return (
        f"{empty} of {pages} pages {'has' if pages == 1 else 'have'} no text, so their content is not known: "
        "add a text layer to pictures of pages"
    )


def _check(made: Sequence[Passage], pages: Sequence[str]) -> None:
    if not made:
        raise Permanent(
            "guidelines have no text: they must be a PDF with a text layer, not pictures of pages; "
            f"{len(pages)} of {len(pages)} pages have none"
        )
    if len(made) > MAX_PASSAGES:
        raise Permanent(f"guidelines must have at most {MAX_PASSAGES} passages, got {len(made)}")


def _ready(digest: bytes, found: Sequence[StoredPassage], model: str) -> Guidelines:
    import numpy as np  # noqa: PLC0415 - as above

    # Row by row: one call for all rows would block the other threads.
    matrix = _unit(np.stack([np.asarray(one.vector, dtype=np.float32) for one in found]))
    extent = found[0].extent
    warning = None if extent is None else empty_pages_warning(extent.pages, extent.empty)
    return Guidelines(digest, [one.passage for one in found], matrix, model, warning)


def _unit(matrix: Any) -> Any:
    """Return ``matrix`` with rows of length 1. A row of zeros stays, and is similar to nothing."""
    import numpy as np  # noqa: PLC0415 - as above

    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths == 0, 1, lengths)


async def forget(ctx: Context, guidelines: Guidelines) -> None:
    """Delete the stored passages: the model changed the length of its vectors. The next use embeds them again."""
    await PassageStore(ctx, guidelines.document_hash, guidelines.embedding_model).forget()
