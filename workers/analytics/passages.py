"""A document's text in passages of about 200 words, each with its number and its page. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

WORDS, OVERLAP = 200, 40
# What is no word of any language (an encoded image, a long link) is cut, or one passage could be a whole document.
LONGEST_WORD = 200

_LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "ft", "\ufb06": "st"}
)
# Hyphens that a typesetter put at the end of a line: a soft one, a true one, and what PDFium writes for them.
_BROKEN = re.compile("[\u00ad\u2010\u0002\ufffe]\\s*\n\\s*")
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000e-\u001f\u007f\u00ad\ud800-\udfff\ufffe\uffff]")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. ``number`` counts from 1 through the document; ``page`` is where it begins."""

    number: int
    page: int
    content: str


def passages(pages: Sequence[str]) -> list[Passage]:
    """Return the passages of a document's pages, in order; empty pages give none.

    Paragraphs stay whole where they fit, else sentences do. Each passage begins with the last 40 words of the one
    before it, so that no thought is only ever found cut in two; every word is in one at least.
    """
    made: list[Passage] = []
    before: list[str] = []
    for page, own in _packed(_pieces(pages)):
        made.append(Passage(len(made) + 1, page, " ".join(chain(before, own))))
        before = own[-OVERLAP:]
    return made


def cleaned(text: str) -> str:
    """Return a page's text with broken words mended and without what cannot be stored or read."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    return _CONTROL.sub("", _BROKEN.sub("", lines)).translate(_LIGATURES)


def _packed(pieces: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Yield as many pieces together as a passage holds; a new page begins a new passage unless this one is small."""
    first_page, words = 0, list[str]()
    for page, piece in pieces:
        turned = page != first_page and len(words) >= WORDS // 2
        if words and (turned or len(words) + len(piece) > WORDS):
            yield first_page, words
            words = []
        if not words:
            first_page = page
        words = [*words, *piece]
    if words:
        yield first_page, words


def _pieces(pages: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield what is kept together, none longer than a passage, with its page."""
    for page, text in enumerate(pages, start=1):
        for paragraph in _PARAGRAPH.split(cleaned(text)):
            sentences = _SENTENCE.split(paragraph) if len(_words(paragraph)) > WORDS else [paragraph]
            for part in map(_words, sentences):
                for start in range(0, len(part), WORDS):
                    yield page, part[start : start + WORDS]


def _words(text: str) -> list[str]:
    return [word[start : start + LONGEST_WORD] for word in text.split() for start in range(0, len(word), LONGEST_WORD)]
