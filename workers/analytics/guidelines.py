"""A project's guidelines: its PDF as passages with their vectors, made once per document and embedding model."""

import asyncio
import base64
import binascii
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import GuidelinePassage, Project
from workers.analytics.passages import Passage, passages
from workers.analytics.patience import patiently
from workers.runtime.context import Context
from workers.runtime.database import outlasting
from workers.runtime.errors import Permanent
from workers.runtime.ports import LanguageModel

# A million words; a book of 400 pages has 500 passages.
MOST_PASSAGES = 5_000

# PDFium keeps global state: two threads in it at once crash the process.
_pdfium = threading.Lock()
_NEEDS_PASSWORD = 4
_DECODED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A passage found for a record; ``score`` is their cosine similarity."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Guidelines:
    """A document ready to be searched. ``vectors`` is a matrix of unit vectors, one row per passage."""

    document_hash: bytes
    passages: Sequence[Passage]
    vectors: Any
    embedding_model: str

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

    Extracted and embedded at the first use only, then found by the document's hash and the model. Raises Permanent
    where the PDF cannot be read. What takes long for a large document, a thread does.
    """
    digest = (await asyncio.to_thread(sha256, pdf)).digest()
    model = await ctx.llm.embedding_model()

    async def kept() -> list[tuple[Passage, Sequence[float]]]:
        async with ctx.session() as session:
            return await _kept(session, digest, model)

    found = await outlasting(kept)
    if not found:
        made = await asyncio.to_thread(lambda: passages(pages_of(pdf)))
        _check(made)
        vectors = await embed(ctx.llm, [passage.content for passage in made], model=model)
        found = list(zip(made, vectors, strict=True))

        async def keep() -> None:
            async with ctx.session() as session:
                await _keep(session, digest, model, found)

        await outlasting(keep)
    return await asyncio.to_thread(_ready, digest, found, model)


async def are_set(session: AsyncSession, project_id: UUID) -> bool:
    """Tell whether a project has guidelines, without reading them."""
    there = Project.guidelines.is_not(None) & (Project.guidelines != "")
    return bool(await session.scalar(select(there).where(Project.id == project_id)))


def decoded(encoded: str | None, *, project: str) -> bytes:
    """Return the PDF behind the base64 of ``projects.guidelines``, with or without a data URL's head.

    Blocks for a few ms per megabyte; raises Permanent where there are none, saying how to set them.
    """
    if not encoded or not encoded.strip():
        raise Permanent(
            f"project {project!r} has no guidelines; set them with `gristmill projects guidelines {project!r} FILE.pdf`"
        )
    head, comma, body = encoded.partition(",")
    text = body if comma and head.lstrip().startswith("data:") else encoded
    try:
        letters = "".join(text.split())
        # In parts: of all at once it would let no other thread have a turn.
        parts = (letters[start : start + _DECODED_AT_ONCE] for start in range(0, len(letters), _DECODED_AT_ONCE))
        return b"".join(base64.b64decode(part, validate=True) for part in parts)
    except (binascii.Error, ValueError):
        raise Permanent("guidelines are not base64") from None


def pages_of(pdf: bytes) -> list[str]:
    """Return the text of each page. Blocks for about 4 ms a page; raises Permanent for what cannot be read."""
    if not pdf:
        raise Permanent("guidelines are an empty file")
    if b"%PDF-" not in pdf[:1024]:
        raise Permanent("guidelines are not a PDF: they do not begin with %PDF-")
    import pypdfium2  # noqa: PLC0415 - loads a library of 7 MB that only this stage needs

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(pdf)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _NEEDS_PASSWORD:
                raise Permanent("guidelines are encrypted: a PDF without a password is needed") from None
            raise Permanent(f"guidelines are damaged: {error}") from None
        try:
            return [_page_text(document, index) for index in range(len(document))]
        except pypdfium2.PdfiumError as error:
            raise Permanent(f"guidelines are damaged: {error}") from None
        finally:
            document.close()


def _page_text(document: Any, index: int) -> str:
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            return str(text_page.get_text_range())
        finally:
            text_page.close()
    finally:
        page.close()


def _check(made: Sequence[Passage]) -> None:
    if not made:
        raise Permanent("guidelines have no text: a PDF with a text layer is needed, not pictures of pages")
    if len(made) > MOST_PASSAGES:
        raise Permanent(f"guidelines must have at most {MOST_PASSAGES} passages, got {len(made)}")


async def embed(llm: LanguageModel, texts: Sequence[str], *, model: str) -> list[Sequence[float]]:
    """Return the vectors of ``texts``, asked as the provider likes it; raise its error after a few attempts."""
    limits = llm.embedding_limits
    asked = [
        asyncio.create_task(patiently(partial(llm.embed, batch, model=model)))
        for batch in batches(texts, at_most=limits.texts, tokens=limits.tokens)
    ]
    try:
        return [vector for answer in await asyncio.gather(*asked) for vector in answer.vectors]
    finally:
        for task in asked:
            task.cancel()


def batches(texts: Sequence[str], *, at_most: int, tokens: int) -> list[Sequence[str]]:
    """Return ``texts`` in order, in as few batches as hold so many texts and about so many tokens each. Pure."""
    made: list[list[str]] = []
    room = 0
    for text in texts:
        size = -(-len(text.encode("utf-8", "replace")) // 3)
        if not made or len(made[-1]) >= at_most or size > room:
            made.append([])
            room = tokens
        made[-1].append(text)
        room -= size
    return list(made)


def _ready(digest: bytes, found: Sequence[tuple[Passage, Sequence[float]]], model: str) -> Guidelines:
    import numpy as np  # noqa: PLC0415 - as above

    # Row by row: of all at once it would let no other thread have a turn.
    matrix = _unit(np.stack([np.asarray(vector, dtype=np.float32) for _, vector in found]))
    return Guidelines(digest, [passage for passage, _ in found], matrix, model)


def _unit(matrix: Any) -> Any:
    """Return ``matrix`` with rows of length one; a row of zeros stays so, like nothing."""
    import numpy as np  # noqa: PLC0415 - as above

    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths == 0, 1, lengths)


async def forget(session: AsyncSession, guidelines: Guidelines) -> None:
    """Have these passages embedded anew at their next use: their model's vectors have another length by now."""
    await session.execute(
        delete(GuidelinePassage).where(
            GuidelinePassage.document_hash == guidelines.document_hash,
            GuidelinePassage.embedding_model == guidelines.embedding_model,
        )
    )


async def _kept(session: AsyncSession, digest: bytes, model: str) -> list[tuple[Passage, Sequence[float]]]:
    rows = await session.execute(
        select(GuidelinePassage.ordinal, GuidelinePassage.page, GuidelinePassage.content, GuidelinePassage.embedding)
        .where(GuidelinePassage.document_hash == digest, GuidelinePassage.embedding_model == model)
        .order_by(GuidelinePassage.ordinal)
    )
    return [(Passage(row.ordinal, row.page, row.content), row.embedding) for row in rows]


async def _keep(
    session: AsyncSession, digest: bytes, model: str, found: Sequence[tuple[Passage, Sequence[float]]]
) -> None:
    """Keep all passages or none; what another run kept first stays, being the same."""
    rows = [
        {
            "document_hash": digest,
            "embedding_model": model,
            "ordinal": passage.number,
            "page": passage.page,
            "content": passage.content,
            "embedding": [float(number) for number in vector],
        }
        for passage, vector in found
    ]
    await session.execute(insert(GuidelinePassage).on_conflict_do_nothing(), rows)
