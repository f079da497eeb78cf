"""Read rows of the assessment store so that one which nobody can read costs the others nothing.

The driver decodes a whole page of rows and raises for all of them if one holds an integer of 5,000 digits, a thousand
levels or a year that Python does not have. Here documents come as texts and are decoded one by one, and times that no
client can show come as words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import RowMapping

from workers.assessment.store.refusals import InvalidChange
from workers.runtime.handler.documents import Unkeepable, keepable

# A document beyond is not fetched: a page of them would not fit a command's memory.
MOST_BYTES = 16 * 1024 * 1024
_DOCUMENTS = ("request_data", "result_data")
_TIMES = ("created_at", "updated_at", "started_at", "completed_at", "next_retry_at")
# Attributes that the table calls by another name.
_COLUMN_NAMES = {"status": "state", "due_at": "next_retry_at"}
_PLAIN = (
    "id", "assessment_id", "owner_id", "state::text AS status", "version", "error_message", "progress", "priority",
    "retry_count", "timeout_seconds", "max_retries",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentView:
    """One assessment as it is now.

    ``unreadable`` says of each field that cannot be shown why; the field itself is None then. ``request_data`` and
    ``result_data`` are objects unless somebody wrote something else by hand.
    """

    id: UUID
    assessment_id: str
    owner_id: UUID | None
    status: str
    version: int
    request_data: Any
    result_data: Any
    error_message: str | None
    created_at: datetime | None
    updated_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    due_at: datetime | None
    progress: int
    priority: int
    retry_count: int
    timeout_seconds: int | None
    max_retries: int
    unreadable: Mapping[str, str]

    @property
    def request(self) -> Mapping[str, Any]:
        """The request, empty where it is no object."""
        return self.request_data if isinstance(self.request_data, dict) else {}

    def by_column(self) -> dict[str, Any]:
        """Return the values under the names that the table's columns have, and what cannot be shown: for JSON."""
        return {_COLUMN_NAMES.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}


class Owned(Protocol):
    """A row that belongs to somebody, or to nobody."""

    @property
    def owner_id(self) -> UUID | None:
        """Whose it is."""


O = TypeVar("O", bound=Owned)  # noqa: E741 - rows that have an owner


def of_one_owner(rows: list[O], assessment_id: str) -> list[O]:
    """Return the rows of the assessment that is meant: nobody's if there are any, else those of the only owner.

    Raises InvalidChange where several owners have one of this name.
    """
    owners = {row.owner_id for row in rows}
    if None in owners:
        return [row for row in rows if row.owner_id is None]
    if len(owners) > 1:
        raise InvalidChange(
            f"assessment {assessment_id!r} belongs to several owners: say whose with gristmill.user_id (--owner)"
        )
    return rows


# With :owner, the rows of that owner; else of whom the session acts for; else everybody's.
BY_OWNER = """coalesce(owner_id = coalesce(CAST(:owner AS uuid), runtime.actor_id()),
                    coalesce(CAST(:owner AS uuid), runtime.actor_id()) IS NULL)"""


def document(column: str) -> str:
    """Return the SQL columns by which :func:`decoded` reads the document in ``column``."""
    return (
        f"CASE WHEN octet_length({column}::text) <= {MOST_BYTES} THEN {column}::text END AS {column}, "
        f"octet_length({column}::text) AS {column}_bytes"
    )


def time(column: str) -> str:
    # A day's distance from the ends: no zone shows such a time as a year that Python does not have.
    sane = f"{column} BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'"
    return (
        f"CASE WHEN {sane} THEN {column} END AS {column}, CASE WHEN NOT {sane} THEN {column}::text END AS {column}_odd"
    )


COLUMNS = ", ".join((*_PLAIN, *map(document, _DOCUMENTS), *map(time, _TIMES)))


def view(row: RowMapping) -> AssessmentView:
    """Return the row that :data:`COLUMNS` selected as people and programs read it."""
    values = dict(row)
    unreadable: dict[str, str] = {}
    for name in _DOCUMENTS:
        values[name], reason = decoded(values[name], values.pop(f"{name}_bytes"), name=name)
        if reason:
            unreadable[name] = reason
    for name in _TIMES:
        if odd := values.pop(f"{name}_odd"):
            unreadable[name] = f"{name} must be a time that clients can show, got {odd}"
    return AssessmentView(due_at=values.pop("next_retry_at"), unreadable=unreadable, **values)


def views(rows: Sequence[RowMapping]) -> list[AssessmentView]:
    """Return every row as :func:`view` does."""
    return [view(row) for row in rows]


def decoded(text: str | None, size: int | None, *, name: str) -> tuple[Any, str | None]:
    """Return the JSON in ``text``, or None and why it cannot be shown; ``size`` is what it has in bytes."""
    if text is None:
        return None, f"{name} must have at most {MOST_BYTES:,} bytes to be shown, got {size:,}" if size else None
    try:
        value = json.loads(text)
        keepable(value, name=name)
    except Unkeepable as error:
        return None, str(error)
    except RecursionError:
        return None, f"{name} is nested too deeply to be shown"
    except ValueError:  # of Postgres' own JSON only this
        return None, f"{name} holds an integer of more digits than can be read (4,300)"
    return value, None
