"""Tell what encoding a file has, from its bytes as they stream by. Names are those of Python's codecs.

A byte order mark decides; UTF-16 without one betrays itself by its NULs; what is UTF-8 from the first byte to the last
is UTF-8; anything else is taken for Windows-1252, which every byte sequence nearly is, and said to be a guess.
"""

import codecs

UTF8 = "utf-8"
GUESS = "cp1252"
# In the order of asking: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 64 * 1024
# Text of Latin letters has a NUL in almost every pair; of other scripts still beside each delimiter and digit.
_SHARE_OF_NULS = 0.1


class Detector:
    """Takes a file piece by piece and names its encoding at the end."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._utf8 = codecs.getincrementaldecoder(UTF8)()
        self._is_utf8 = True

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        self._try(piece, final=False)

    def finish(self) -> str:
        """Return the encoding of all that was fed."""
        self._try(b"", final=True)
        return self.so_far()

    def so_far(self) -> str:
        """Return the encoding as far as it can be told; what was cut within a character is no matter."""
        head = bytes(self._head)
        marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        return marked or _unmarked_utf16(head) or (UTF8 if self._is_utf8 else GUESS)

    def _try(self, piece: bytes, *, final: bool) -> None:
        if self._is_utf8:
            try:
                self._utf8.decode(piece, final)
            except UnicodeDecodeError:
                self._is_utf8 = False


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
