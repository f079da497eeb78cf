"""The loop of a worker: a blocked loop ends its process, and a stopped loop leaves no thread waiting."""

import asyncio
import subprocess
import sys
from concurrent.futures import CancelledError

import pytest

from workers.transport.loop import LoopThread

PROGRAM = """
import time
from workers.transport.loop import LoopThread

async def never_yields():
    while True:
        {held}

loop = LoopThread("jobs")
loop.start()
loop.end_process_if_stuck(0.4)
{then}
"""


def run(*, held: str = "pass", then: str) -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(held=held, then=then)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


def test_loop_blocked_by_python_ends_the_process_and_names_the_code():
    """The stack on stderr shows the code that blocks the loop, so that it is in the worker's log."""
    ended = run(then="loop.submit(never_yields()).result()")

    assert ended.returncode == 1
    assert "in never_yields" in ended.stderr


def test_code_that_never_releases_the_gil_is_detected_too():
    """A pattern that backtracks without end holds the GIL, so no Python thread could detect it."""
    held = "import re; re.match('(a+)+$', 'a' * 40 + 'b')"

    ended = run(held=held, then="loop.submit(never_yields()).result()")

    assert (ended.returncode, "in never_yields" in ended.stderr) == (1, True)


def test_loop_that_runs_or_is_stopped_does_not_end_the_process():
    """The watch does not end a healthy process, nor a process that works on after its loop has stopped."""
    ended = run(then="time.sleep(1.0); loop.stop(); time.sleep(0.6)")

    assert (ended.returncode, ended.stderr) == (0, "")


def test_stopped_loop_leaves_no_thread_waiting():
    """A thread that waits for the loop when it stops, or submits a coroutine later, gets an answer and can end."""
    loop = LoopThread("jobs")
    loop.start()
    waiting = loop.submit(asyncio.sleep(60))

    loop.stop()

    with pytest.raises(CancelledError):
        waiting.result(timeout=5)
    assert loop.submit(asyncio.sleep(0, "late")).result(timeout=5) == "late"
