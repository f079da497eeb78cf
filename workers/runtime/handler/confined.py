"""Run a module of ours in a process of its own, with bounded memory and processor time, and read what it writes.

For what strangers' files are read with: a crash, an endless loop or a gigabyte costs that process and nobody else. It
gets none of our environment, so it knows no secrets.
"""

import asyncio
import os
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO

_SPENT, _FAILED = 71, 70
_PIECE_BYTES = 1024 * 1024


class Exceeded(Exception):
    """The process needed more than it may have, or crashed; what it had written until then was handed out."""


class Confined:
    """What a running process writes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield what it writes until its end; raise Exceeded unless that is a good one."""
        written = self._process.stdout
        assert written is not None
        while piece := await asyncio.to_thread(_read, written):
            yield piece
        if await asyncio.to_thread(self._process.wait) != 0:
            raise Exceeded


def _read(written: IO[bytes]) -> bytes:
    with suppress(ValueError):  # closed meanwhile, by a cancellation
        return os.read(written.fileno(), _PIECE_BYTES)
    return b""


@asynccontextmanager
async def confined(
    module: str, *, stdin: IO[bytes], memory_bytes: int, processor_seconds: int
) -> AsyncIterator[Confined]:
    """Yield a process that runs ``module`` as ``__main__`` on the file ``stdin``; it ends with the block."""
    command = (sys.executable, "-m", __name__, module, str(memory_bytes), str(processor_seconds))
    stdin.seek(0)
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
    )
    try:
        yield Confined(process)
    finally:
        process.kill()
        # The end of a killed process takes no time that anybody would notice.
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, sys.path))
    return {"PYTHONPATH": path, "PYTHONUTF8": "1", "PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}


def _limit(memory_bytes: int, processor_seconds: int) -> None:
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    for limit, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, processor_seconds)):
        with suppress(ValueError, OSError):  # not every system knows each
            resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    """Run what the command line names, within its bounds."""
    module, memory_bytes, processor_seconds = sys.argv[1:4]
    _limit(int(memory_bytes), int(processor_seconds))
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__")
    except MemoryError:
        return _SPENT
    except BrokenPipeError:
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
