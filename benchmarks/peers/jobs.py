"""What a peer's job does: nothing, or one HTTP call. Counted per process in a file, a few times a second.

Standard library only: it runs in each peer's own environment.
"""

import json
import os
import threading
import time
from functools import cache
from pathlib import Path

from benchmarks.http_client import HttpClient

CALL_URL = os.environ.get("BENCH_CALL_URL")
# As many jobs at once as Gristmill's workers have slots, where a peer lets one say so.
CONCURRENCY = 1_000
_WRITE_SECONDS = 0.02


class _Count:
    """How many jobs this process has run, kept in its file by a thread of its own: no job waits for a disk."""

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
