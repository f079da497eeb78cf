"""The cursors of lists: opaque, bound, and refused in one line whatever they hold."""

import base64
import uuid
from datetime import UTC, datetime

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from gateway.cursors import Listing
from gateway.parameters import Paging
from gateway.problems import HttpProblem
from tests.support.gateway import make_caller
from workers.runtime.cursors import SEAL_BYTES, WrongCursorError


def listing(*, limit: int = 2, cursor: str | None = None, path: str = "/v1/things", query: str = "") -> Listing:
    scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": [], "server": ("g", 80)}
    request = Request(scope | {"scheme": "http", "root_path": ""})
    return Listing(request, make_caller("scoring"), Paging(limit=limit, cursor=cursor))


def test_a_whole_list_is_read_page_by_page() -> None:
    """Each item once, and no cursor after the last."""
    items = [f"i{number}" for number in range(5)]
    read, cursor = [], None

    while True:
        page = listing(cursor=cursor).cut(items, lambda one: one)
        read += page.items
        cursor = page.next
        if cursor is None:
            break

    assert read == items


def test_a_position_comes_back_as_it_was() -> None:
    """Times keep their microseconds, ids are ids."""
    at, id_ = datetime(2030, 1, 2, 3, 4, 5, 678901, UTC), uuid.uuid4()
    page = listing(limit=1).page([1, 2], lambda _: (at, id_))

    assert listing(cursor=page.next).after_time() == (at, id_)


def test_an_item_that_is_gone_is_said() -> None:
    """Rather than a page from somewhere else."""
    cursor = listing(limit=1).cut(["a", "b"], lambda one: one).next

    with pytest.raises(HttpProblem, match="gone"):
        listing(cursor=cursor).cut(["b", "c"], lambda one: one)


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: base64.urlsafe_b64encode(b).decode())))
def test_no_cursor_makes_another_error(cursor: str) -> None:
    """Whatever a client sends."""
    for read in (Listing.after_id, Listing.after_time, Listing.after_text):
        with pytest.raises(WrongCursorError):
            read(listing(cursor=cursor))


@pytest.mark.parametrize(
    "position",
    [b"[]", b'["a","b"]', b"[1]", b"[null]", b'[["x"]]', b'["\\u0000"]', b'["\\ud800"]', b'["no id"]', b"{}", b"\xff"],
)
def test_a_position_of_another_kind_is_refused(position: bytes) -> None:
    """Also with the right seal."""
    seal = base64.urlsafe_b64decode((listing().page([1, 2, 3], lambda _: "x").next or "") + "==")[:SEAL_BYTES]
    cursor = base64.urlsafe_b64encode(seal + position).decode().rstrip("=")

    with pytest.raises(WrongCursorError):
        listing(cursor=cursor).after_id()
