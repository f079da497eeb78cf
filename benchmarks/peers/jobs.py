"""The work of a peer's job: nothing, or one HTTP call. Each process often writes its count to a file.

It needs only the standard library, because it runs in each peer's own environment.
"""

import json
import os
import threading
import time
from functools import cache
from pathlib import Path

from benchmarks.http_client import HttpClient

CALL_URL = os.environ.get("BENCH_CALL_URL")
# The number of jobs at once, as many as Gristmill's workers have slots, if the peer has such an option.
CONCURRENCY = 1_000
_WRITE_SECONDS = 0.02


class _Count:
    """The number of jobs that this process has run. A thread writes it to a file, so no job waits for the disk."""

    def __init__(self) -> None:
        self.ran = 0
        self._first_at = time.time()
        self._file = Path(os.environ["BENCH_COUNTS"]) / f"{os.getpid()}.json"
        self._write()
        threading.Thread(target=self._keep_writing, daemon=True).start()

    def _keep_writing(self) -> None:
        while True:
            time.sleep(_WRITE_SECONDS)
            self._write()

    def _write(self) -> None:
        whole = self._file.with_suffix(".new")
        whole.write_text(json.dumps({"ran": self.ran, "first_at": self._first_at}))
        whole.replace(self._file)


@cache
def _count() -> _Count:
    return _Count()


@cache
def _client() -> HttpClient:
    assert CALL_URL
    return HttpClient(CALL_URL)


async def work() -> None:
    """Do one job."""
    count = _count()
    if CALL_URL:
        await _client().post(b"{}")
    count.ran += 1
