"""Guidelines out of PDFs: forms and annotations count, pages without text are counted, nothing unfolds without end."""

import asyncio
import time
import zlib

import pytest

from tests.support.paths import ROOT
from workers.analytics import pdf as pdfs
from workers.analytics.guidelines import without_text
from workers.analytics.passages import empty_pages
from workers.analytics.pdf import EXCEEDED, extracted, pages_of
from workers.runtime.handler.errors import Permanent

CASES = ROOT / "tests" / "cases"


def made(content: bytes, *, folds: int = 1, annotations: bytes = b"") -> bytes:
    """Return a PDF of one page with this content, folded so many times."""
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
    """It is what such guidelines say."""
    assert "Every answer must cite a page." in pages_of((CASES / "form_field.pdf").read_bytes())[0]


def test_text_of_annotations_is_text_and_of_windows_beside_them_none() -> None:
    """Notes and comments count once; links have no text of their own."""
    annotations = (
        b"/Annots[<</Type/Annot/Subtype/Text/Rect[0 0 9 9]/Contents(Name a page.)>>"
        b"<</Type/Annot/Subtype/Popup/Rect[0 0 9 9]/Contents(Name a page.)>>"
        b"<</Type/Annot/Subtype/FreeText/Rect[0 0 9 9]/Contents(Be kind.)>>"
        b"<</Type/Annot/Subtype/Link/Rect[0 0 9 9]/Contents(a link)>>]"
    )

    [page] = pages_of(made(b"BT /F1 9 Tf (hello) Tj ET", annotations=annotations))

    assert page.split() == ["hello", "Name", "a", "page.", "Be", "kind."]


def test_pages_without_text_are_counted_and_said() -> None:
    """One page of ten has some; blanks and marks that nobody sees are none."""
    pages = pages_of((CASES / "partly_scanned.pdf").read_bytes())

    assert (len(pages), empty_pages(pages)) == (10, 9)
    said = without_text(10, 9)
    assert said is not None
    assert said.startswith("9 of 10 pages have no text")
    assert without_text(3, 0) is None
    assert empty_pages(["", " \u200b\r\n", "---", "a", "\u8a69"]) == 3


def test_confined_process_reads_what_this_one_would() -> None:
    """Also what it is refused for."""
    pdf = (ROOT / "samples" / "guidelines.pdf").read_bytes()

    assert asyncio.run(extracted(pdf)) == pages_of(pdf)
    with pytest.raises(Permanent, match="guidelines are not a PDF"):
        asyncio.run(extracted(b"PK and so on"))


def test_small_pdf_that_unfolds_to_600_mb_is_stopped() -> None:
    """Its process ends in time, and nobody else's memory is touched."""
    content = b"BT /F1 9 Tf (hello) Tj ET "
    bomb = made(content * (600_000_000 // len(content)), folds=2)
    assert len(bomb) < 10_000
    begun = time.monotonic()

    with pytest.raises(Permanent) as refusal:
        asyncio.run(extracted(bomb))

    assert str(refusal.value) == EXCEEDED
    assert time.monotonic() - begun < pdfs.PROCESSOR_SECONDS


def test_text_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it fits into the other process's memory."""
    monkeypatch.setattr(pdfs, "MOST_TEXT_BYTES", 10)

    with pytest.raises(Permanent, match="guidelines have more than 0 MiB of text"):
        asyncio.run(extracted(made(b"BT /F1 9 Tf (hello) Tj ET " * 500)))
