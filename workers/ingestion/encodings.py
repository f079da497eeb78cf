"""Tell what encoding a file has, from its bytes as they stream by. Names are those of Python's codecs.

A byte order mark decides; UTF-16 without one betrays itself by its NULs; what is UTF-8 from the first byte to the last
is UTF-8, and so is text with far more proof for UTF-8 than damage to it. Anything else is taken for Windows-1252, which
every byte sequence nearly is, and said to be a guess. Encodings of other scripts are never guessed: they must be named.
"""

import codecs
import re

UTF8 = "utf-8"
# UTF-8 that is not to be trusted to be all valid, be it marked or damaged.
DOUBTFUL = "utf-8-sig"
GUESS = "cp1252"
# In the order of asking: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, DOUBTFUL),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 64 * 1024
# Text of Latin letters has a NUL in almost every pair; of other scripts still beside each delimiter and digit.
_SHARE_OF_NULS = 0.1
# Bytes that are no UTF-8, as the decoder hands them out one by one.
_DAMAGE = re.compile("[\udc80-\udcff]+")
# One character that was damaged, or written as two halves of three bytes each, is so many bytes at most.
_LONGEST_DAMAGE = 6
# Text in Shift-JIS, GBK or EUC has up to twice as many bytes by chance that look valid as it has damages.
_GOOD_PER_BAD = 4
_FEW_DAMAGES = 3


class Detector:
    """Takes a file piece by piece and names its encoding at the end.

    ``good`` counts the bytes that continue a valid character of several: Windows-1252 has hardly a word in which they
    would follow. ``bad`` counts damages, each of up to six bytes in a row.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._utf8 = codecs.getincrementaldecoder(UTF8)("surrogateescape")
        self._bytes = self._characters = self._bad = 0
        self._run = 0  # bytes of a damage that may go on in the next piece

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        self._count(piece, final=False)

    def finish(self) -> str:
        """Return the encoding of all that was fed."""
        self._count(b"", final=True)
        return self.so_far()

    def so_far(self) -> str:
        """Return the encoding as far as it can be told; what was cut within a character is no matter."""
        head = bytes(self._head)
        marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        return marked or _unmarked_utf16(head) or self._utf8_or_guess()

    def _utf8_or_guess(self) -> str:
        bad = self._bad + _damages(self._run)
        if bad == 0:
            return UTF8
        good = self._bytes - len(self._utf8.getstate()[0]) - self._characters
        return DOUBTFUL if good >= (bad if bad <= _FEW_DAMAGES else _GOOD_PER_BAD * bad) else GUESS

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
    return -(-count // _LONGEST_DAMAGE)


def _unmarked_utf16(head: bytes) -> str | None:
    """Return the UTF-16 that has NULs at every other place, hardly any at the others, and decodes."""
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
    """Return what decodes a file piece by piece; bytes that mean nothing become U+FFFD."""
    return codecs.getincrementaldecoder(encoding)("replace")
