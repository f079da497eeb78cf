"""Lists in pages. A cursor names the last item of a page; it is bound to the list, its filters and who asks.

So a page does not move when items are added, and a cursor is of no use for another list or another tenant.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from fastapi import Request

from gateway.callers.caller import Caller
from gateway.parameters import Paging
from gateway.problems import HttpProblem
from gateway.views import Page
from workers.runtime.bounds import text_problem
from workers.runtime.cursors import WrongCursorError, make_cursor, read_cursor
from workers.runtime.refusals import Problem

T = TypeVar("T")
Part = str | UUID | datetime
_OWN = {"limit", "cursor"}


class Listing:
    """One list of a request: reads its cursor and makes its page."""

    def __init__(self, request: Request, caller: Caller, paging: Paging) -> None:
        self.limit = paging.limit
        self._cursor = paging.cursor
        filters = sorted((name, value) for name, value in request.query_params.multi_items() if name not in _OWN)
        self._bound_to = [request.url.path, caller.role, str(caller.user_id), filters]

    @property
    def wanted(self) -> int:
        """How many items to ask for: one more than the page has, which tells whether there is a next page."""
        return self.limit + 1

    def after_id(self) -> UUID | None:
        """Return the id after which the page begins; None for the first page."""
        found = self._position(1)
        return None if found is None else self._parse(UUID, found[0])

    def after_time(self) -> tuple[datetime, UUID] | None:
        """Return the time and the id after which the page begins; None for the first page."""
        found = self._position(2)
        return None if found is None else (self._parse(_aware, found[0]), self._parse(UUID, found[1]))

    def after_text(self) -> str | None:
        """Return the text after which the page begins; None for the first page."""
        found = self._position(1)
        return None if found is None else found[0]

    def page(self, found: Sequence[T], key: Callable[[T], Part | tuple[Part, ...]]) -> Page[T]:
        """Return the page of ``found``, which has up to :attr:`wanted` items; ``key`` is an item's position."""
        items = list(found[: self.limit])
        return Page(items=items, next=self._write(key(items[-1])) if len(found) > self.limit else None)

    def cut(self, found: Sequence[T], key: Callable[[T], Part | tuple[Part, ...]]) -> Page[T]:
        """Return the page of a list that is read as a whole. If the last item is gone, the cursor is refused."""
        marks = [_texts(key(one)) for one in found]
        begin = 0
        if self._cursor is not None:
            last = self._position(len(marks[0]) if marks else None)
            if last not in marks:
                problem = Problem("cursor", "is of an item that is gone: begin again with the first page")
                raise HttpProblem("invalid", str(problem), errors=[problem])
            begin = marks.index(last) + 1
        return self.page(found[begin : begin + self.wanted], key)

    def _write(self, position: Part | tuple[Part, ...]) -> str:
        return make_cursor(json.dumps(_texts(position), separators=(",", ":")).encode(), of=self._bound_to)

    def _position(self, count: int | None) -> list[str] | None:
        if self._cursor is None:
            return None
        try:
            position = json.loads(read_cursor(self._cursor, of=self._bound_to))
        except (ValueError, RecursionError) as error:
            raise (error if isinstance(error, WrongCursorError) else WrongCursorError(self._cursor)) from None
        if not isinstance(position, list) or any(not isinstance(one, str) or text_problem(one) for one in position):
            raise WrongCursorError(self._cursor)
        if count is not None and len(position) != count:
            raise WrongCursorError(self._cursor)
        return position

    def _parse(self, read: Callable[[str], Any], text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise WrongCursorError(self._cursor or "") from None


def _texts(position: Part | tuple[Part, ...]) -> list[str]:
    parts = position if isinstance(position, tuple) else (position,)
    return [part.isoformat() if isinstance(part, datetime) else str(part) for part in parts]


def _aware(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("no time zone")
    return time
