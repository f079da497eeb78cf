"""Detect the encoding of a file from a stream of its bytes. The names are those of Python's codecs.

The order: a byte order mark; NUL bytes (UTF-16); valid UTF-8; UTF-8 with a few damaged characters. Anything else is
read as Windows-1252, in which almost every byte is a character, with a warning. Encodings of other scripts are never
guessed: a person must give them.
"""

import codecs
import re

UTF8 = "utf-8"
# UTF-8 with a byte order mark, or with damaged characters: it may have bytes that cannot be decoded.
LENIENT_UTF8 = "utf-8-sig"
FALLBACK = "cp1252"
# The order matters: the mark of UTF-32 begins with the mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, LENIENT_UTF8),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 64 * 1024
# In UTF-16, Latin text has a NUL in almost every pair of bytes; other scripts have one in each delimiter and digit.
_SHARE_OF_NULS = 0.1
# Bytes that are not UTF-8, as the decoder returns them.
_DAMAGE = re.compile("[\udc80-\udcff]+")
# One damaged character has at most this many bytes (a surrogate pair has two halves of three bytes each).
_MAX_DAMAGE_BYTES = 6
# In Shift-JIS, GBK or EUC text, up to twice as many bytes look like valid UTF-8 by chance as are damaged.
_MIN_GOOD_PER_BAD = 4
_FEW_DAMAGES = 3


class Detector:
    """Takes a file piece by piece and returns its encoding at the end.

    ``good`` is the number of bytes that continue a valid character of several bytes: in Windows-1252 text such a
    sequence is very rare. ``bad`` is the number of damages, each of up to six bytes in a row.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._utf8 = codecs.getincrementaldecoder(UTF8)("surrogateescape")
        self._bytes = self._characters = self._bad = 0
        self._run = 0  # bytes of a damage that may continue in the next piece

    def feed(self, piece: bytes) -> None:
        """Count the next piece."""
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        self._count(piece, final=False)

    def finish(self) -> str:
        """Return the encoding of all that was fed."""
        self._count(b"", final=True)
        return self.so_far()

    def so_far(self) -> str:
        """Return the encoding of the pieces so far. A character that is cut at their end does not count as damaged."""
        head = bytes(self._head)
        marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        return marked or _unmarked_utf16(head) or self._utf8_or_guess()

    def _utf8_or_guess(self) -> str:
        bad = self._bad + _damages(self._run)
        if bad == 0:
            return UTF8
        good = self._bytes - len(self._utf8.getstate()[0]) - self._characters
        return LENIENT_UTF8 if good >= (bad if bad <= _FEW_DAMAGES else _MIN_GOOD_PER_BAD * bad) else FALLBACK

    def _count(self, piece: bytes, *, final: bool) -> None:
        text = self._utf8.decode(piece, final)
        self._bytes += len(piece)
        self._characters += len(text)
        if piece.isascii() and not self._run and text.isascii():
            return
        end = 0
        for damage in _DAMAGE.finditer(text):
            if damage.start():
                self._end_run()
            self._run += damage.end() - damage.start()
            end = damage.end()
        if end < len(text):
            self._end_run()

    def _end_run(self) -> None:
        self._bad += _damages(self._run)
        self._run = 0


def _damages(count: int) -> int:
    return -(-count // _MAX_DAMAGE_BYTES)


def _unmarked_utf16(head: bytes) -> str | None:
    """Return the name of the UTF-16 that ``head`` is: NULs only at even or only at odd places, and it decodes."""
    pairs = len(head) // 2
    even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    for name, nulls, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if nulls > pairs * _SHARE_OF_NULS and others < nulls * _SHARE_OF_NULS:
            try:
                codecs.getincrementaldecoder(name)().decode(head[: 2 * pairs])
            except UnicodeDecodeError:
                continue
            return name
    return None


def decoder(encoding: str) -> codecs.IncrementalDecoder:
    """Return a decoder for a file in pieces. Bytes that cannot be decoded become U+FFFD."""
    return codecs.getincrementaldecoder(encoding)("replace")
