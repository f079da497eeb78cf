"""Read an answer's body within bounds while it arrives: its bytes, what they unfold to, its characters."""

import json
import zlib
from contextvars import ContextVar

import httpx2

MIB = 1 << 20
# A chat answer of 128,000 tokens has half a MiB. An answer of brackets only takes fifty times its size as objects.
ANSWER_LIMIT = 4 * MIB
# Beside it, per text: a vector of 4,000 numbers, written with all their digits, has 100 kB.
VECTOR_LIMIT = MIB // 8
ERROR_LIMIT = MIB // 16
ACCEPTED = "gzip, deflate"

# How much the current task's request may be answered with.
answer_limit: ContextVar[int] = ContextVar("answer_limit", default=ANSWER_LIMIT)

_ERROR = 300
_GZIP_OR_ZLIB, _RAW = 47, -15
# What says how the body was sent, and is no longer so.
_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding", "content-type"})


class AnswerTooLargeError(httpx2.DecodingError):
    """The body is larger than it may be; the rest was not read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"answer is larger than {limit // MIB} MiB")


class UnreadableAnswerError(httpx2.DecodingError):
    """The body is not what its headers say."""


async def received(response: httpx2.Response) -> httpx2.Response:
    """Return ``response`` with its whole body in UTF-8 and plain, whatever it came in; raise what is too large.

    Of an error's body, which may be cut or broken, nothing is kept then: its status and headers count.
    """
    is_error = response.status_code >= _ERROR
    limit = ERROR_LIMIT if is_error else answer_limit.get()
    try:
        content = await _read(response, limit)
    except (AnswerTooLargeError, UnreadableAnswerError):
        if not is_error:
            raise
        content = b""
    finally:
        await response.aclose()
    said_type = response.headers.get("content-type", "")
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_WIRE]
    media_type = said_type.partition(";")[0].strip() or "application/json"
    headers.append(("content-type", f"{media_type}; charset=utf-8"))
    return httpx2.Response(
        response.status_code,
        headers=headers,
        content=text_of(content, said_type).encode(),
        extensions=response.extensions,
    )


def text_of(content: bytes, content_type: str = "") -> str:
    """Return a body's text: by its byte order mark or NUL bytes (UTF-16, UTF-32), UTF-8, or the charset it names."""
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        charset = content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    try:
        return content.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # unknown, no encoding of texts, or one that cannot replace what it cannot read
        return content.decode("utf-8", "replace")


async def _read(response: httpx2.Response, limit: int) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    unfold = _plain if encoding in {"identity", ""} else _Unfolding(encoding).unfold
    parts, size, seen = list[bytes](), 0, 0
    async for chunk in response.aiter_raw():
        seen += len(chunk)
        if seen > limit:
            raise AnswerTooLargeError(limit)
        part = unfold(chunk, limit - size + 1)
        size += len(part)
        if size > limit:
            raise AnswerTooLargeError(limit)
        parts.append(part)
    return b"".join(parts)


def _plain(chunk: bytes, _most: int) -> bytes:
    return chunk


class _Unfolding:
    """Decompresses as it comes, never more than asked for."""

    def __init__(self, encoding: str) -> None:
        if encoding not in {"gzip", "x-gzip", "deflate"}:
            raise UnreadableAnswerError(f"answer is encoded as {encoding[:40]!r}, which was not asked for")
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._deflate = encoding == "deflate"
        self._begun = False

    def unfold(self, chunk: bytes, most: int) -> bytes:
        """Return what ``chunk`` unfolds to, or its first ``most`` bytes, which are too many already."""
        try:
            part = self._inflate.decompress(chunk, most)
        except zlib.error:
            if self._begun or not self._deflate:
                raise UnreadableAnswerError("answer is not compressed as its headers say") from None
            self._inflate = zlib.decompressobj(_RAW)  # what some servers call deflate has no header
            part = self._unfold_raw(chunk, most)
        self._begun = True
        while self._inflate.eof and self._inflate.unused_data and len(part) < most:  # another member follows
            rest, self._inflate = self._inflate.unused_data, zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                part += self._inflate.decompress(rest, most - len(part))
            except zlib.error:
                break  # padding
        return part

    def _unfold_raw(self, chunk: bytes, most: int) -> bytes:
        try:
            return self._inflate.decompress(chunk, most)
        except zlib.error:
            raise UnreadableAnswerError("answer is not compressed as its headers say") from None
