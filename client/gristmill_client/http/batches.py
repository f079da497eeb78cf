"""Enqueue many jobs with one request. They go through a file, so memory stays small and a repeat sends the same."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Literal

import httpx2

from gristmill_client.errors import GristmillError, Refused, UnexpectedAnswer
from gristmill_client.http import requests
from gristmill_client.http.attempts import Core, answered
from gristmill_client.http.problems import error_class, make_error
from gristmill_client.http.steps import Body, Plan, Request
from gristmill_client.models import Enqueued, NewJob

# This much of a batch is kept in memory, the rest in a file.
MEMORY_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 64 * 1024
# The gateway enqueues 100,000 jobs in a minute or less, and answers when all are there.
BATCH_SECONDS = 300.0
# Lines of a batch have no status.
_STATUS = {
    "/problems/unavailable": 503,
    "/problems/internal": 500,
    "/problems/conflict": 409,
    "/problems/forbidden": 403,
}


def enqueue_many(core: Core, stage: str, jobs: Iterable[NewJob | Mapping[str, Any]]) -> Plan[list[Enqueued]]:
    """Enqueue up to 100,000 jobs in one transaction; return them in the order of ``jobs``.

    A job is a :class:`NewJob` or a mapping with the same members (and ``stage``, if it is of another one). Each needs
    the member ``idempotency_key``; None says that it has none. If one is refused, none is enqueued: raise Refused with
    its ``position``.
    """
    found = requests.answer_as(dict[str, Any], (yield from _sent(core, stage, jobs, "all")))
    return requests.fitted(list[Enqueued], found.get("jobs"), "the answer")


def enqueue_each(
    core: Core, stage: str, jobs: Iterable[NewJob | Mapping[str, Any]]
) -> Plan[list[Enqueued | GristmillError]]:
    """Enqueue up to 100,000 jobs, each for itself; return what became of each, in the order of ``jobs``.

    What was not enqueued is an error in the list, with its ``position``: Refused, or Unavailable (send it again).
    """
    response = yield from _sent(core, stage, jobs, "each")
    return [_row(line, position) for position, line in enumerate(response.content.splitlines())]


def _row(line: bytes, position: int) -> Enqueued | GristmillError:
    try:
        row = json.loads(line)
    except ValueError:
        raise UnexpectedAnswer(f"line {position} of the answer must be JSON") from None
    if row.get("id") is not None:
        return requests.fitted(Enqueued, row, f"line {position} of the answer")
    return make_error(row, error_class(_STATUS.get(str(row.get("type")), 422)), position=position)


def _sent(
    core: Core, stage: str, jobs: Iterable[NewJob | Mapping[str, Any]], mode: Literal["all", "each"]
) -> Plan[httpx2.Response]:
    with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES) as file:
        has_keys = True
        for position, job in enumerate(jobs):
            value = _job(stage, job, position)
            has_keys = has_keys and "idempotency_key" in value
            file.write(requests.encode(value) + b"\n")
        body = _FileBody(file)
        headers = {"Content-Type": requests.NDJSON, "Content-Length": str(body.length)}
        request = Request(
            method="POST",
            path="/v1/jobs/batch",
            params={"mode": mode},
            headers=headers,
            body=body,
            read_seconds=BATCH_SECONDS,
            is_repeatable=has_keys,
        )
        return (yield from answered(core, request))


def _job(stage: str, job: NewJob | Mapping[str, Any], position: int) -> dict[str, Any]:
    given = {n: getattr(job, n) for n in job.model_fields_set} if isinstance(job, NewJob) else dict(job)
    if "idempotency_key" not in given:
        rule, remedy = "is required", "give a key, new_key(), or None for none"
        raise Refused(
            f"job {position}: idempotency_key {rule}, got nothing; {remedy}",
            field="idempotency_key",
            rule=rule,
            value="nothing",
            remedy=remedy,
            position=position,
        )
    payload = given.pop("payload", None)
    return requests.new_job(given.pop("stage", stage), payload, given, position=position)


class _FileBody(Body):
    """The content of a file, from its beginning each time."""

    def __init__(self, file: "BinaryIO | tempfile.SpooledTemporaryFile[bytes]") -> None:
        self._file = file
        self.length = file.tell()

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            yield piece
