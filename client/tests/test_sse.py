"""Events from pieces of bytes, wherever the pieces end."""

import pytest
from gristmill_client.http.sse import MAX_EVENT_BYTES, Event, EventParser, TooLargeError

STREAM = (
    b'retry: 2000\n:\nid: 1.2\n\n: a comment\n\nevent: transition\r\nid: 7\r\ndata: {"a":\r\ndata:  1}\r\n\r\n'
    b"event: progress\ndata: \xe2\x82\xac\n\nid: 8\n\nretry: x\ndata\n\nevent: cut off\ndata: lost\n"
)
EVENTS = [
    Event(id="1.2", retry_milliseconds=2000),
    Event("transition", '{"a":\n 1}', "7"),
    Event("progress", "€"),
    Event(id="8"),
    Event(data=""),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_of_any_size_are_the_same_events(size):
    """What is not complete at the end does not count."""
    parser = EventParser()
    found = [one for at in range(0, len(STREAM), size) for one in parser.feed(STREAM[at : at + size])]

    assert found == EVENTS


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 65_536, b"data: x" * 9_000 + b"\n"])
def test_an_event_without_end_is_refused(piece):
    parser = EventParser()

    def feed_without_end():
        for _ in range(MAX_EVENT_BYTES // len(piece) + 2):
            parser.feed(piece)

    with pytest.raises(TooLargeError):
        feed_without_end()
