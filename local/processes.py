"""Start child processes that never outlive this one. Knows nothing of what they are."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
# Bound before any fork: the child of a fork should look nothing up.
_prctl: Callable[[int, int], int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str],
    output: IO[bytes],
    dies_by: signal.Signals,
    stdin: int = subprocess.DEVNULL,
    cwd: Path | None = None,
    run_as: tuple[int, int] | None = None,
    keeps: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own, so that Ctrl-C reaches this process only.

    On Linux the kernel sends the child ``dies_by`` when this process ends, even by SIGKILL; it watches the thread
    that forked, therefore only the main thread may call this (RuntimeError). ``run_as`` is a uid and gid to change
    to, with no other groups; ``keeps`` are file descriptors that the child and its own children hold open.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("child processes are started from the main thread: they end with the thread that forked")
    uid, gid = run_as or (None, None)
    with warnings.catch_warnings():
        # What runs between fork and exec takes no lock, so other threads of this process cannot block it.
        warnings.filterwarnings("ignore", r".*multi-threaded, use of fork", DeprecationWarning)
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=uid,
            group=gid,
            extra_groups=[] if run_as else None,
            pass_fds=keeps,
            start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid(), dies_by) if _prctl else None,  # noqa: PLW1509 - see above
        )


def _die_with(parent: int, dies_by: signal.Signals) -> None:
    """Tie this new process to ``parent``. Runs after the change of uid, which clears the tie."""
    if _prctl:
        _prctl(_PR_SET_PDEATHSIG, dies_by)
    if os.getppid() != parent:  # it died before the tie was made
        os._exit(1)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill ``process`` and what it started with SIGKILL, and wait for its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe_exit(status: int) -> str:
    """Say how a process ended, from its ``returncode``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
