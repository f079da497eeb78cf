"""A document's text in passages of about 200 words or 1,600 characters, each with its number and its page. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

WORDS, OVERLAP = 200, 40
# Where words are long, or none because the script has no blanks (Chinese, Japanese, Thai), characters count.
CHARS, OVERLAP_CHARS = 1_400, 240
# Such text, and what is no word of any language (an encoded image, a long link), is cut.
LONGEST_WORD = 200

_LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "ft", "\ufb06": "st"}
)
# Hyphens that a typesetter put at the end of a line: a soft one, a true one, and what PDFium writes for them.
_BROKEN = re.compile("[\u00ad\u2010\u0002\ufffe]\\s*\n\\s*")
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000e-\u001f\u007f\u00ad\ud800-\udfff\ufffe\uffff]")
# Letters, digits and signs: what is left of a page that has only blanks, rules and marks of order is no text.
_SEEN = re.compile(r"\w")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|(?<=[。！？；])")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. ``number`` counts from 1 through the document; ``page`` is where it begins."""

    number: int
    page: int
    content: str


def passages(pages: Sequence[str]) -> list[Passage]:
    """Return the passages of a document's pages, in order; empty pages give none.

    Paragraphs stay whole where they fit, else sentences do. Each passage begins with the last 40 words of the one
    before it, fewer where they are long, so that no thought is only ever found cut in two; every word is in one at
    least.
    """
    made: list[Passage] = []
    before: list[str] = []
    for page, own in _packed(_pieces(pages)):
        made.append(Passage(len(made) + 1, page, " ".join(chain(before, own))))
        before = _end_of(own)
    return made


def _end_of(words: Sequence[str]) -> list[str]:
    """Return the last words, as many as a passage repeats of the one before it."""
    room, first = OVERLAP_CHARS, len(words)
    while first > max(0, len(words) - OVERLAP) and (room := room - len(words[first - 1]) - 1) >= 0:
        first -= 1
    return list(words[first:])


def cleaned(text: str) -> str:
    """Return a page's text with broken words mended and without what cannot be stored or read."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    return _CONTROL.sub("", _BROKEN.sub("", lines)).translate(_LIGATURES)


def empty_pages(pages: Sequence[str]) -> int:
    """Return how many pages have no text in them."""
    return sum(1 for text in pages if not _SEEN.search(cleaned(text)))


def _packed(pieces: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Yield as many pieces together as a passage holds; a new page begins a new passage unless this one is small."""
    first_page, words, chars = 0, list[str](), 0
    for page, piece in pieces:
        turned = page != first_page and (len(words) >= WORDS // 2 or chars >= CHARS // 2)
        if words and (turned or len(words) + len(piece) > WORDS or chars + _chars(piece) > CHARS):
            yield first_page, words
            words, chars = [], 0
        if not words:
            first_page = page
        words, chars = [*words, *piece], chars + _chars(piece)
    if words:
        yield first_page, words


def _pieces(pages: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield what is kept together, none longer than a passage, with its page."""
    for page, text in enumerate(pages, start=1):
        for paragraph in _PARAGRAPH.split(cleaned(text)):
            sentences = _SENTENCE.split(paragraph) if not _fit(_words(paragraph)) else [paragraph]
            for part in map(_words, sentences):
                yield from ((page, piece) for piece in _cut(part))


def _cut(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield ``words`` in pieces that fit."""
    piece, chars = list[str](), 0
    for word in words:
        chars += len(word) + 1
        if piece and (len(piece) == WORDS or chars > CHARS):
            yield piece
            piece, chars = [], len(word) + 1
        piece.append(word)
    if piece:
        yield piece


def _fit(words: Sequence[str]) -> bool:
    """Tell whether ``words`` fit into one passage."""
    return len(words) <= WORDS and _chars(words) <= CHARS


def _chars(words: Sequence[str]) -> int:
    return sum(map(len, words)) + len(words)


def _words(text: str) -> list[str]:
    return [word[start : start + LONGEST_WORD] for word in text.split() for start in range(0, len(word), LONGEST_WORD)]
