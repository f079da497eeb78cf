"""Read rows of the assessment store so that one unreadable row does not affect the others.

The driver decodes a page of rows at once. If one row holds an integer of 5,000 digits, a thousand levels, or a year
that Python does not support, the driver raises for the whole page. So documents are read as text and decoded one by
one, and times that no client can show are read as text.
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

# A larger document is not fetched: a page of them would not fit into memory.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
# Of a larger document, a list reads only the members that it shows.
MAX_SUMMARY_BYTES = 64 * 1024
_DOCUMENTS = ("request_data", "result_data")
_TIMES = ("created_at", "updated_at", "started_at", "completed_at", "next_retry_at")
# Attributes that have another name in the table.
_COLUMN_NAMES = {"status": "state", "due_at": "next_retry_at"}
_PLAIN = (
    "id", "assessment_id", "owner_id", "state::text AS status", "version", "error_message", "progress", "priority",
    "retry_count", "timeout_seconds", "max_retries",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentView:
    """One assessment as it is now.

    If a field cannot be shown, it is None and ``unreadable`` has the reason. ``request_data`` and ``result_data`` are
    objects, unless somebody wrote another value by hand.
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
        """The request; empty if it is not an object."""
        return self.request_data if isinstance(self.request_data, dict) else {}

    def by_column(self) -> dict[str, Any]:
        """Return the values by column name, and ``unreadable``, for JSON."""
        return {_COLUMN_NAMES.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}


class Owned(Protocol):
    """A row with an owner, or without one."""

    @property
    def owner_id(self) -> UUID | None:
        """The owner; None if there is none."""


O = TypeVar("O", bound=Owned)  # noqa: E741 - rows that have an owner


def rows_of_one_owner(rows: list[O], assessment_id: str) -> list[O]:
    """Return the rows without an owner if there are any, else those of the only owner.

    Raise InvalidChange if several owners have an assessment of this name.
    """
    owners = {row.owner_id for row in rows}
    if None in owners:
        return [row for row in rows if row.owner_id is None]
    if len(owners) > 1:
        raise InvalidChange(
            f"assessment {assessment_id!r} belongs to several owners: say whose with gristmill.user_id (--owner)"
        )
    return rows


# With :owner, the rows of that owner; else those of the session's user; else all.
BY_OWNER = """coalesce(owner_id = coalesce(CAST(:owner AS uuid), runtime.actor_id()),
                    coalesce(CAST(:owner AS uuid), runtime.actor_id()) IS NULL)"""


def document_columns(column: str) -> str:
    """Return the SQL columns from which :func:`decode_document` reads the document in ``column``."""
    return f"runtime.readable({column}, {MAX_DOCUMENT_BYTES}) AS {column}, {column} IS NULL AS {column}_is_null"


def summary_columns(column: str, *members: str) -> str:
    """Return the SQL columns for a document in a list: of a large document only ``members``, else all of it."""
    chosen = ", ".join(
        f"'{name}', CASE WHEN jsonb_typeof({column} -> '{name}') = 'string' THEN left({column} ->> '{name}', 200) END"
        for name in members
    )
    size = f"pg_column_size({column} || '{{}}'::jsonb)"
    return (
        f"CASE WHEN {size} <= {MAX_SUMMARY_BYTES} THEN runtime.readable({column}, {MAX_SUMMARY_BYTES})"
        f" WHEN {size} > {MAX_DOCUMENT_BYTES} THEN NULL"
        f" WHEN jsonb_typeof({column}) = 'object' THEN jsonb_build_object({chosen})::text"
        f" ELSE to_jsonb(jsonb_typeof({column}))::text END AS {column},"
        f" {column} IS NULL AS {column}_is_null"
    )


def time_columns(column: str) -> str:
    """Return the SQL columns for a time: the time, or as text if no client can show it."""
    # One day less than Python's range, so that no time zone moves the time out of the range.
    sane = f"{column} BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'"
    return (
        f"CASE WHEN {sane} THEN {column} END AS {column}, CASE WHEN NOT {sane} THEN {column}::text END AS {column}_odd"
    )


COLUMNS = ", ".join((*_PLAIN, *map(document_columns, _DOCUMENTS), *map(time_columns, _TIMES)))
# Like COLUMNS, but of a large document only the members that a list shows.
LISTED = ", ".join(
    (
        *_PLAIN,
        summary_columns("request_data", "assessmentType"),
        summary_columns("result_data", "verdict"),
        *map(time_columns, _TIMES),
    )
)


def view(row: RowMapping) -> AssessmentView:
    """Return the view of a row that :data:`COLUMNS` or :data:`LISTED` selected."""
    values = dict(row)
    unreadable: dict[str, str] = {}
    for name in _DOCUMENTS:
        values[name], reason = decode_document(values[name], is_null=values.pop(f"{name}_is_null"), name=name)
        if reason:
            unreadable[name] = reason
    for name in _TIMES:
        if odd := values.pop(f"{name}_odd"):
            unreadable[name] = f"{name} must be a time that clients can show, got {odd}"
    return AssessmentView(due_at=values.pop("next_retry_at"), unreadable=unreadable, **values)


def views(rows: Sequence[RowMapping]) -> list[AssessmentView]:
    """Return the views of these rows."""
    return [view(row) for row in rows]


def decode_document(text: str | None, *, is_null: bool, name: str) -> tuple[Any, str | None]:
    """Return the JSON in ``text``, or None and the reason; ``is_null`` says that the column is NULL."""
    if text is None:
        return None, None if is_null else f"{name} must have at most {MAX_DOCUMENT_BYTES:,} bytes to be shown, got more"
    try:
        value = json.loads(text)
        keepable(value, name=name)
    except Unkeepable as error:
        return None, str(error)
    except RecursionError:
        return None, f"{name} is nested too deeply to be shown"
    except ValueError:  # the only error that is possible in JSON from Postgres
        return None, f"{name} holds an integer of more digits than can be read (4,300)"
    return value, None
