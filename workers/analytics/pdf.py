"""Guidelines as they are kept, base64 of a PDF, as the text of each page."""

import base64
import binascii
import threading
from typing import Any

from workers.runtime.errors import Permanent

# PDFium keeps global state: two threads in it at once crash the process.
_pdfium = threading.Lock()
_NEEDS_PASSWORD = 4
_DECODED_AT_ONCE = 1 << 20


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
