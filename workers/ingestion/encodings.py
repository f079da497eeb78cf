"""Tell what encoding a file has, from its bytes as they stream by. Names are those of Python's codecs.

A byte order mark decides; UTF-16 without one betrays itself by its NULs; what is UTF-8 from the first byte to the last
is UTF-8, and so is what has ten valid characters of several bytes for each damage to one. Anything else is taken for
Windows-1252, which every byte sequence nearly is, and said to be a guess.
"""

import codecs

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


# The bytes that begin a character of several; Windows-1252 has hardly a word in which valid ones follow them.
_LEADS = bytes(range(0xC2, 0xF5))
_GOOD_PER_BAD = 10
_REPLACED = "\N{REPLACEMENT CHARACTER}"


class Detector:
    """Takes a file piece by piece and names its encoding at the end."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._utf8 = codecs.getincrementaldecoder(UTF8)("replace")
        self._good = self._bad = 0

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
        if self._bad == 0:
            return UTF8
        return DOUBTFUL if self._good > _GOOD_PER_BAD * self._bad else GUESS

    def _count(self, piece: bytes, *, final: bool) -> None:
        self._bad += self._utf8.decode(piece, final).count(_REPLACED) - piece.count(_REPLACED.encode())
        self._good += len(piece) - len(piece.translate(None, _LEADS))


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
