"""Guidelines from PDFs: forms and annotations are read, pages without text are counted, memory is limited."""

import asyncio
import time
import zlib

import pytest

from tests.support.paths import ROOT
from workers.analytics import pdf as pdfs
from workers.analytics.guidelines import empty_pages_warning
from workers.analytics.passages import empty_pages
from workers.analytics.pdf import PDF_EXCEEDED, extract_pages, read_pages
from workers.runtime.handler.errors import Permanent

CASES = ROOT / "tests" / "cases"


def made(content: bytes, *, folds: int = 1, annotations: bytes = b"") -> bytes:
    """Return a PDF of one page with this content, compressed ``folds`` times."""
    for _ in range(folds):
        content = zlib.compress(content, 9)
    filters = b"/FlateDecode" * folds
    font = b"<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Contents 4 0 R/Resources" + font + annotations + b">>",
        b"<</Length %d/Filter[%b]>>stream\n%b\nendstream" % (len(content), filters, content),
    ]
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%b\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 5\n0000000000 65535 f \n%btrailer<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
    return body + end % (table, len(body))


def test_text_in_form_fields_is_text() -> None:
    """Such guidelines have their text there."""
    assert "Every answer must cite a page." in read_pages((CASES / "form_field.pdf").read_bytes())[0]


def test_text_of_annotations_is_read_and_of_popups_is_not() -> None:
    """Notes and comments are read once. Links have no text."""
    annotations = (
        b"/Annots[<</Type/Annot/Subtype/Text/Rect[0 0 9 9]/Contents(Name a page.)>>"
        b"<</Type/Annot/Subtype/Popup/Rect[0 0 9 9]/Contents(Name a page.)>>"
        b"<</Type/Annot/Subtype/FreeText/Rect[0 0 9 9]/Contents(Be kind.)>>"
        b"<</Type/Annot/Subtype/Link/Rect[0 0 9 9]/Contents(a link)>>]"
    )

    [page] = read_pages(made(b"BT /F1 9 Tf (hello) Tj ET", annotations=annotations))

    assert page.split() == ["hello", "Name", "a", "page.", "Be", "kind."]


def test_pages_without_text_are_counted_and_reported() -> None:
    """One page of ten has text. Blanks and invisible characters are not text."""
    pages = read_pages((CASES / "partly_scanned.pdf").read_bytes())

    assert (len(pages), empty_pages(pages)) == (10, 9)
    said = empty_pages_warning(10, 9)
    assert said is not None
    assert said.startswith("9 of 10 pages have no text")
    assert empty_pages_warning(3, 0) is None
    assert empty_pages(["", " \u200b\r\n", "---", "a", "\u8a69"]) == 3


def test_confined_process_reads_the_same_as_this_one() -> None:
    """Refusals are the same, too."""
    pdf = (ROOT / "samples" / "guidelines.pdf").read_bytes()

    assert asyncio.run(extract_pages(pdf)) == read_pages(pdf)
    with pytest.raises(Permanent, match="guidelines are not a PDF"):
        asyncio.run(extract_pages(b"PK and so on"))


def test_small_pdf_that_expands_to_600_mb_is_stopped() -> None:
    """Its process ends in time, and no other process needs the memory."""
    content = b"BT /F1 9 Tf (hello) Tj ET "
    bomb = made(content * (600_000_000 // len(content)), folds=2)
    assert len(bomb) < 10_000
    begun = time.monotonic()

    with pytest.raises(Permanent) as refusal:
        asyncio.run(extract_pages(bomb))

    assert str(refusal.value) == PDF_EXCEEDED
    assert time.monotonic() - begun < pdfs.MAX_PDF_PROCESSOR_SECONDS


def test_too_much_text_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it fits into the memory of the other process."""
    monkeypatch.setattr(pdfs, "MAX_TEXT_BYTES", 10)

    with pytest.raises(Permanent, match="guidelines have more than 0 MiB of text"):
        asyncio.run(extract_pages(made(b"BT /F1 9 Tf (hello) Tj ET " * 500)))
