"""Send files: the records of a project."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import UUID

from gristmill_client.errors import NotPossible
from gristmill_client.http import requests
from gristmill_client.http.attempts import Core, answered
from gristmill_client.http.models import StartedJob
from gristmill_client.http.steps import Plan, Request

# The gateway examines a file before it answers.
UPLOAD_SECONDS = 300.0


def ingest(
    core: Core,
    project_id: UUID,
    file: str | os.PathLike[str] | BinaryIO,
    *,
    idempotency_key: str | None,
    type: Literal["task", "feedback"],  # noqa: A002 - the name of the field in the interface
    name: str | None = None,
    mapping: Mapping[str, str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quote: str | None = None,
    skip_rows: int | None = None,
    priority: int | None = None,
    on_failed: Literal["return", "rerun"] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Plan[StartedJob]:
    """Store a file of records and enqueue its ingestion. ``file`` is a path, or a file that is open for reading bytes.

    ``mapping`` says which column each field comes from. ``on_progress`` is called with the bytes that were sent and
    those of the whole request (None if the length is not known); it begins anew if the request is sent again. Only a
    file with ``seek`` is sent again. Follow the job with :meth:`follow` or :meth:`wait`. Raise Refused, NotFound.
    """
    with ExitStack() as stack:
        opened = _opened(stack, file)
        fields = {
            "type": type,
            "mapping": None if mapping is None else json.dumps(dict(mapping)),
            "encoding": encoding,
            "delimiter": delimiter,
            "quote": quote,
            "skip_rows": skip_rows,
            "priority": priority,
            "on_failed": on_failed,
            "idempotency_key": idempotency_key,
        }
        request = Request(
            method="POST",
            path=f"/v1/projects/{project_id}/ingest",
            form={field: str(value) for field, value in fields.items() if value is not None},
            file=(name or _name_of(file), opened),
            on_sent=on_progress,
            read_seconds=UPLOAD_SECONDS,
            is_repeatable=idempotency_key is not None,
            is_once=not _is_seekable(opened),
        )
        response = yield from answered(core, request)
    return requests.answer_as(StartedJob, response)


def _opened(stack: ExitStack, file: str | os.PathLike[str] | BinaryIO) -> Any:
    if isinstance(file, (str, os.PathLike)):
        try:
            return stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise NotPossible(f"file {os.fspath(file)!r} cannot be read: {error.strerror}") from None
    return file


def _name_of(file: str | os.PathLike[str] | BinaryIO) -> str:
    name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
    return Path(name).name if isinstance(name, str) else "upload"


def _is_seekable(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if callable(seekable) else False
