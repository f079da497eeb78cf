"""Start child processes that end when this process ends."""

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
# Looked up before any fork, because a child of a fork should not load anything.
_prctl: Callable[[int, int], int] | None = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str],
    output: IO[bytes],
    end_signal: signal.Signals,
    stdin: int = subprocess.DEVNULL,
    cwd: Path | None = None,
    run_as: tuple[int, int] | None = None,
    inherited_files: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in its own session, so that Ctrl-C reaches only this process.

    On Linux the kernel sends ``end_signal`` to the child when this process ends, even by SIGKILL. The kernel watches
    the thread that forked, so only the main thread may call this (else RuntimeError). ``run_as`` is the child's uid and
    gid; it gets no other groups. The child and its children keep the file descriptors ``inherited_files`` open.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread may start child processes: they end with the thread that forked")
    uid, gid = run_as or (None, None)
    with warnings.catch_warnings():
        # The code between fork and exec takes no lock, so other threads of this process cannot block it.
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
            pass_fds=inherited_files,
            start_new_session=True,
            preexec_fn=partial(_end_with_parent, os.getpid(), end_signal) if _prctl else None,  # noqa: PLW1509 - safe
        )


def _end_with_parent(parent: int, end_signal: signal.Signals) -> None:
    """Make this new process end with ``parent``. Runs after the change of uid, which would clear the setting."""
    if _prctl:
        _prctl(_PR_SET_PDEATHSIG, end_signal)
    if os.getppid() != parent:  # the parent ended before the setting was made
        os._exit(1)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill ``process`` and its children with SIGKILL, and wait for its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe_exit(status: int) -> str:
    """Describe how a process ended, from its ``returncode``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
