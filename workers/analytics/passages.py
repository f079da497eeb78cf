"""Split a document's text into passages of about 200 words or 1,600 characters, each with number and page. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

WORDS, OVERLAP = 200, 40
# These limit a passage if words are long, or if the script has no blanks between words (Chinese, Japanese, Thai).
CHARS, OVERLAP_CHARS = 1_400, 240
# Longer words are cut: text without blanks, an encoded image, a long link.
MAX_WORD_CHARS = 200

_LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "ft", "\ufb06": "st"}
)
# Hyphens at the end of a line: soft hyphen, hyphen, and the characters that PDFium writes for them.
_BROKEN = re.compile("[\u00ad\u2010\u0002\ufffe]\\s*\n\\s*")
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000e-\u001f\u007f\u00ad\ud800-\udfff\ufffe\uffff]")
# A page has text only if it has a letter, a digit or an underscore.
_WORD = re.compile(r"\w")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|(?<=[。！？；])")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. ``number`` counts from 1 through the document; ``page`` is where it begins."""

    number: int
    page: int
    content: str


def split_passages(pages: Sequence[str]) -> list[Passage]:
    """Return the passages of a document's pages, in order; empty pages give none.

    Paragraphs stay whole if they fit, otherwise sentences. Each passage begins with the last 40 words of the one before
    it (fewer if they are long), so that text at a cut is also found as a whole. Every word is in at least one passage.
    """
    made: list[Passage] = []
    before: list[str] = []
    for page, own in _packed(_pieces(pages)):
        made.append(Passage(len(made) + 1, page, " ".join(chain(before, own))))
        before = _end_of(own)
    return made


def _end_of(words: Sequence[str]) -> list[str]:
    """Return the last words, which the next passage repeats."""
    room, first = OVERLAP_CHARS, len(words)
    while first > max(0, len(words) - OVERLAP) and (room := room - len(words[first - 1]) - 1) >= 0:
        first -= 1
    return list(words[first:])


def clean_text(text: str) -> str:
    """Return a page's text with words joined across line ends, and without control characters and half surrogates."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    return _CONTROL.sub("", _BROKEN.sub("", lines)).translate(_LIGATURES)


def empty_pages(pages: Sequence[str]) -> int:
    """Return how many pages have no text."""
    return sum(1 for text in pages if not _WORD.search(clean_text(text)))


def _packed(pieces: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """Yield pieces joined into passages. A page begins a new passage, unless the current one is less than half full."""
    first_page, words, chars = 0, list[str](), 0
    for page, piece in pieces:
        is_new_page = page != first_page and (len(words) >= WORDS // 2 or chars >= CHARS // 2)
        if words and (is_new_page or len(words) + len(piece) > WORDS or chars + _chars(piece) > CHARS):
            yield first_page, words
            words, chars = [], 0
        if not words:
            first_page = page
        words, chars = [*words, *piece], chars + _chars(piece)
    if words:
        yield first_page, words


def _pieces(pages: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield pieces that stay together, each with its page and not longer than a passage."""
    for page, text in enumerate(pages, start=1):
        for paragraph in _PARAGRAPH.split(clean_text(text)):
            sentences = _SENTENCE.split(paragraph) if not _fit(_words(paragraph)) else [paragraph]
            for part in map(_words, sentences):
                yield from ((page, piece) for piece in _cut(part))


def _cut(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield ``words`` in pieces that fit into one passage."""
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
    """Return whether ``words`` fit into one passage."""
    return len(words) <= WORDS and _chars(words) <= CHARS


def _chars(words: Sequence[str]) -> int:
    return sum(map(len, words)) + len(words)


def _words(text: str) -> list[str]:
    size = MAX_WORD_CHARS
    return [word[start : start + size] for word in text.split() for start in range(0, len(word), size)]
