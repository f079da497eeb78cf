"""Read Server-Sent Events from pieces of bytes. Pure.

``httpx2.EventSource`` does not show comments. They tell that a silent stream is alive, which a wait must know.
"""

from dataclasses import dataclass

# A longer event is none of the gateway's.
MAX_EVENT_BYTES = 4 * 1024 * 1024


class TooLargeError(ValueError):
    """The stream has an event that is too large to be one of the gateway's."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``id`` alone is a position; ``retry_milliseconds`` alone says when to come back."""

    name: str = "message"
    data: str | None = None
    id: str | None = None
    retry_milliseconds: int | None = None


class EventParser:
    """Give it the pieces of a stream in their order. An event that is not complete at the end does not count."""

    def __init__(self) -> None:
        self._held = b""
        self._fields: dict[str, str] = {}
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that ``piece`` completes; raise TooLargeError."""
        *lines, self._held = (self._held + piece).split(b"\n")
        events = [event for line in lines if (event := self._take(line)) is not None]
        if len(self._held) + self._size > MAX_EVENT_BYTES:
            raise TooLargeError(f"an event has more than {MAX_EVENT_BYTES:,} bytes")
        return events

    def _take(self, line: bytes) -> Event | None:
        line = line.removesuffix(b"\r")
        if not line:
            return self._end()
        self._size += len(line)
        if not line.startswith(b":"):
            name, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                self._data.append(value)
            elif name in {"event", "id", "retry"} and "\0" not in value:
                self._fields[name] = value
        return None

    def _end(self) -> Event | None:
        fields, data = self._fields, self._data
        self._fields, self._data, self._size = {}, [], 0
        if not fields and not data:
            return None
        retry = fields.get("retry", "")
        return Event(
            name=fields.get("event", "message"),
            data="\n".join(data) if data else None,
            id=fields.get("id"),
            retry_milliseconds=int(retry) if retry.isascii() and retry.isdecimal() and len(retry) < 10 else None,  # noqa: PLR2004 - so many digits are no wait
        )
