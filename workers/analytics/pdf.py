"""Extract the text of each page from the guidelines, which are stored as base64 of a PDF.

As ``__main__``, in a confined process, it reads a PDF from standard input and writes its pages to standard output as
JSON.
"""

import base64
import binascii
import ctypes
import json
import sys
import tempfile
import threading
from typing import Any

from workers.runtime.handler.confined import ConfinedProcessFailed, confined
from workers.runtime.handler.errors import Permanent

# PDFium has global state: if two threads use it at once, the process crashes.
_pdfium = threading.Lock()
_NEEDS_PASSWORD = 4
_DECODED_AT_ONCE = 1 << 20
# A book of 400 pages takes 100 MiB and a second.
MAX_PDF_MEMORY_BYTES = 512 * 1024 * 1024
MAX_PDF_PROCESSOR_SECONDS = 120
MAX_TEXT_BYTES = 64 * 1024 * 1024
PDF_EXCEEDED = (
    f"guidelines cannot be read within {MAX_PDF_MEMORY_BYTES // 1024**2} MiB of memory and "
    f"{MAX_PDF_PROCESSOR_SECONDS} s: the PDF expands to far more than its size, or is damaged"
)
# Annotation types of PDFium. Links have no text, and popups repeat the text of another annotation.
_LINK, _POPUP, _WIDGET = 2, 16, 20
_CONTENTS, _VALUE = b"Contents", b"V"


def decode_guidelines(encoded: str | None, *, project: str) -> bytes:
    """Return the PDF from the base64 in ``projects.guidelines``, which may be a data URL.

    Blocks for a few ms per megabyte. If there are no guidelines, raises Permanent, which says how to set them.
    """
    if not encoded or not encoded.strip():
        raise Permanent(
            f"project {project!r} has no guidelines; set them with `gristmill projects guidelines {project!r} FILE.pdf`"
        )
    head, comma, body = encoded.partition(",")
    text = body if comma and head.lstrip().startswith("data:") else encoded
    try:
        letters = "".join(text.split())
        # In parts: one call for all would block the other threads.
        parts = (letters[start : start + _DECODED_AT_ONCE] for start in range(0, len(letters), _DECODED_AT_ONCE))
        return b"".join(base64.b64decode(part, validate=True) for part in parts)
    except (binascii.Error, ValueError):
        raise Permanent("guidelines are not base64") from None


async def extract_pages(pdf: bytes) -> list[str]:
    """Return the text of each page; raise Permanent. A process with limited memory and time reads the PDF."""
    written = bytearray()
    try:
        with tempfile.TemporaryFile() as file:
            file.write(pdf)
            bounds = {"memory_bytes": MAX_PDF_MEMORY_BYTES, "processor_seconds": MAX_PDF_PROCESSOR_SECONDS}
            async with confined(__name__, stdin=file, **bounds) as process:
                async for piece in process.pieces():
                    written += piece
                    if len(written) > MAX_TEXT_BYTES:
                        raise Permanent(f"guidelines have more than {MAX_TEXT_BYTES // 1024**2} MiB of text")
    except ConfinedProcessFailed:
        raise Permanent(PDF_EXCEEDED) from None
    result = json.loads(written)
    if "error" in result:
        raise Permanent(result["error"])
    pages: list[str] = result["pages"]
    return pages


def read_pages(pdf: bytes) -> list[str]:
    """Return the text of each page, followed by the text of its form fields and annotations; raise Permanent.

    Blocks for about 4 ms per page, and its memory has no limit: ``extract_pages`` limits both.
    """
    if not pdf:
        raise Permanent("guidelines are an empty file")
    if b"%PDF-" not in pdf[:1024]:
        raise Permanent("guidelines are not a PDF: they do not begin with %PDF-")
    import pypdfium2  # noqa: PLC0415 - loads a library of 7 MB; only this stage needs it

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(pdf)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _NEEDS_PASSWORD:
                raise Permanent("guidelines are encrypted: a PDF without a password is needed") from None
            raise Permanent(f"guidelines are damaged: {error}") from None
        try:
            if document.get_formtype():
                document.init_forms()
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
            text = str(text_page.get_text_range())
        finally:
            text_page.close()
        return "\n\n".join([text, *_annotations(document, page)])
    finally:
        page.close()


def _annotations(document: Any, page: Any) -> list[str]:
    """Return the texts of form fields and annotations, each text once."""
    import pypdfium2.raw as pdfium  # noqa: PLC0415 - as above

    texts: dict[str, None] = {}
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            match pdfium.FPDFAnnot_GetSubtype(annotation):
                case kind if kind in {_LINK, _POPUP}:
                    continue
                case kind if kind == _WIDGET and document.formenv:
                    text = _string(pdfium.FPDFAnnot_GetFormFieldValue, document.formenv, annotation)
                case kind if kind == _WIDGET:
                    text = _string(pdfium.FPDFAnnot_GetStringValue, annotation, _VALUE)
                case _:
                    text = _string(pdfium.FPDFAnnot_GetStringValue, annotation, _CONTENTS)
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)
        if text.strip():
            texts.setdefault(text)
    return list(texts)


def _string(ask: Any, *about: Any) -> str:
    """Return a string from PDFium. The first call without a buffer returns its length in bytes."""
    length = ask(*about, None, 0)
    room = (ctypes.c_ushort * (length // 2 + 1))()
    ask(*about, room, length)
    return bytes(room)[: max(0, length - 2)].decode("utf-16-le", "replace")


def _main() -> None:
    try:
        result: dict[str, Any] = {"pages": read_pages(sys.stdin.buffer.read())}
    except Permanent as error:
        result = {"error": str(error)}
    print(json.dumps(result))  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    _main()
