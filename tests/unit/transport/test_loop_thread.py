"""The loop of a worker: held for ever it ends its process; stopped, it leaves nobody waiting."""

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


def test_loop_held_by_python_ends_the_process_and_names_the_culprit():
    """The stack on stderr says where the loop is held, for whoever looks at the log of a worker that ended."""
    ended = run(then="loop.submit(never_yields()).result()")

    assert ended.returncode == 1
    assert "in never_yields" in ended.stderr


def test_code_that_never_gives_the_interpreter_back_is_noticed_too():
    """A pattern that backtracks without end holds the GIL: no thread of Python could watch over it."""
    held = "import re; re.match('(a+)+$', 'a' * 40 + 'b')"

    ended = run(held=held, then="loop.submit(never_yields()).result()")

    assert (ended.returncode, "in never_yields" in ended.stderr) == (1, True)


def test_loop_that_turns_or_is_stopped_is_left_alone():
    """Being watched costs a healthy process nothing, nor a main thread that works long after the loop has ended."""
    ended = run(then="time.sleep(1.0); loop.stop(); time.sleep(0.6)")

    assert (ended.returncode, ended.stderr) == (0, "")


def test_stopped_loop_leaves_no_thread_waiting():
    """Whoever waits for something on the loop as it stops, or asks for more afterwards, gets an answer and can end."""
    loop = LoopThread("jobs")
    loop.start()
    waiting = loop.submit(asyncio.sleep(60))

    loop.stop()

    with pytest.raises(CancelledError):
        waiting.result(timeout=5)
    assert loop.submit(asyncio.sleep(0, "late")).result(timeout=5) == "late"
