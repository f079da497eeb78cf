"""Run a module of ours in a process of its own, with limited memory and processor time, and read its output.

Files of strangers are read in such a process: a crash, an endless loop or too much memory ends only that process. It
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


class ConfinedProcessFailed(Exception):
    """The process exceeded its limits or crashed. Its output until then was yielded."""


class ConfinedProcess:
    """A running process with limits, and its output."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield its output until it ends; raise ConfinedProcessFailed if it failed."""
        written = self._process.stdout
        assert written is not None
        while piece := await asyncio.to_thread(_read, written):
            yield piece
        if await asyncio.to_thread(self._process.wait) != 0:
            raise ConfinedProcessFailed


def _read(written: IO[bytes]) -> bytes:
    with suppress(ValueError):  # a cancellation has closed the pipe
        return os.read(written.fileno(), _PIECE_BYTES)
    return b""


@asynccontextmanager
async def confined(
    module: str, *, stdin: IO[bytes], memory_bytes: int, processor_seconds: int
) -> AsyncIterator[ConfinedProcess]:
    """Yield a process that runs ``module`` as ``__main__`` and reads the file ``stdin``; kill it after the block."""
    command = (sys.executable, "-m", __name__, module, str(memory_bytes), str(processor_seconds))
    stdin.seek(0)
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
    )
    try:
        yield ConfinedProcess(process)
    finally:
        process.kill()
        # A killed process ends at once.
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
        with suppress(ValueError, OSError):  # not every system has each limit
            resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    """Run the module of the command line within its limits."""
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
