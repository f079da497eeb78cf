# ruff: noqa: INP001 - a script beside its data, no package
"""Write ``guidelines.pdf`` from ``guidelines.txt``: ``python samples/make_guidelines.py``.

A PDF of text needs no library: three fonts that every reader has, one stream of text per page. The same text gives
the same bytes. In the text ``# `` begins a heading, ``## `` a smaller one, ``- `` an item, and a line of three dashes a
new page.
"""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
WIDTH, HEIGHT, MARGIN = 595, 842, 64  # A4, in points
NEW_PAGE = "---"


class Style(NamedTuple):
    """How a line is set: font, size, space above, characters per line, indentation."""

    font: str
    size: int
    above: int
    characters: int
    indent: int


TITLE, HEADING = Style("F2", 18, 8, 48, 0), Style("F2", 13, 14, 66, 0)
BODY, ITEM = Style("F1", 11, 6, 88, 0), Style("F1", 11, 3, 84, 14)


def styled(text: str) -> Iterator[list[tuple[Style, str]]]:
    """Yield the lines of each page, wrapped, with their styles."""
    for page in text.split(f"\n{NEW_PAGE}\n"):
        yield [
            (style if number == 0 else style._replace(above=0), line)
            for paragraph in page.strip().split("\n")
            if paragraph.strip()
            for style, lines in [_wrapped(paragraph.strip())]
            for number, line in enumerate(lines)
        ]


def _wrapped(paragraph: str) -> tuple[Style, list[str]]:
    for mark, style in (("## ", HEADING), ("# ", TITLE), ("- ", ITEM)):
        if paragraph.startswith(mark):
            shown = f"\u2022 {paragraph[2:]}" if style is ITEM else paragraph.removeprefix(mark)
            return style, textwrap.wrap(shown, style.characters)
    return BODY, textwrap.wrap(paragraph, BODY.characters)


def pdf(pages: Sequence[Sequence[tuple[Style, str]]], *, title: str) -> bytes:
    """Return a PDF 1.4 of these pages with a real text layer; raise ValueError where a page has no room left."""
    first_page = 6
    kids = " ".join(f"{first_page + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
        b"<< /Title (" + _escaped(title) + b") >>",
    ]
    for number, page in enumerate(pages):
        stream = b"\n".join(_drawn(page, number + 1, len(pages)))
        objects += [
            (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}]"
                f" /Contents {first_page + 2 * number + 1} 0 R /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>"
            ).encode(),
            b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        ]
    return _assembled(objects)


def _drawn(page: Sequence[tuple[Style, str]], number: int, count: int) -> Iterator[bytes]:
    top = HEIGHT - MARGIN
    for style, line in page:
        top -= style.above + round(style.size * 1.3)
        if top < MARGIN:
            raise ValueError(f"page {number} has no room for {line!r}")
        yield _text(style.font, style.size, MARGIN + style.indent, top, line)
    yield _text("F1", 9, WIDTH // 2 - 20, MARGIN // 2, f"Page {number} of {count}")


def _text(font: str, size: int, left: int, top: int, line: str) -> bytes:
    return f"BT /{font} {size} Tf {left} {top} Td (".encode() + _escaped(line) + b") Tj ET"


def _escaped(text: str) -> bytes:
    return text.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _assembled(objects: Sequence[bytes]) -> bytes:
    """Return the file: the objects, where each begins, and where to find that."""
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    for place in places:
        out += b"%010d 00000 n \n" % place
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info 5 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(out)


def made() -> bytes:
    """Return what ``guidelines.pdf`` holds."""
    text = (HERE / "guidelines.txt").read_text(encoding="utf-8")
    return pdf(list(styled(text)), title="Guidelines for tasks and feedback")


if __name__ == "__main__":
    (HERE / "guidelines.pdf").write_bytes(made())
