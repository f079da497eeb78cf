"""A real supervisor in its own process, with small roles that record what happens to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from local.supervision_status import RoleStatus, SupervisionError, SupervisorStatus, read_status, stop_supervisor
from tests.support.paths import ROOT

REPOSITORY = ROOT

# A role that records its end in a shared file. Its arguments: its name, the file, its reaction to SIGTERM.
ROLE = """
import signal, sys, time
name, notes, manner = sys.argv[1:]
def end(number, frame):
    with open(notes, "a") as file:
        file.write(name + "\\n")
    if manner != "unwilling":
        sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
for _ in range(1_200):  # bounded, because a failing test may leave this process behind
    time.sleep(0.05)
"""
SUPERVISOR = """
import os, sys
from datetime import timedelta
from pathlib import Path
from local.supervision import Role, Supervisor
from local.supervision_status import SupervisionError
folder, role, manner = sys.argv[1:]
def make(name, stop_first):
    argv = [sys.executable, "-c", role, name, folder + "/notes", manner if name == "worker" else "willing"]
    return Role(name=name, argv=argv, env=os.environ, stop_first=stop_first)
try:
    with Supervisor(Path(folder), grace=timedelta(seconds=30), report=lambda line: print(line, flush=True)) as up:
        roles = [make("dispatcher", False), make("worker", True)]
        if manner == "broken":
            roles.append(Role(name="broken", argv=["/nonexistent/program"], env={}))
        up.start(roles, urls={"database_url": "postgresql://somewhere"})
        sys.exit(up.run())
except SupervisionError as error:
    sys.exit(str(error))
"""


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Poll ``condition`` until it holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def status_of(folder: Path) -> SupervisorStatus:
    status = read_status(folder)
    assert status, "no supervisor runs"
    return status


def role(folder: Path, name: str) -> RoleStatus:
    (found,) = [role for role in status_of(folder).roles if role.name == name]
    return found


def is_ready(folder: Path, name: str, *, times: int = 1) -> bool:
    log = folder / "logs" / f"{name}.log"
    return log.exists() and log.read_text().count("ready") == times


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def supervisor(folder: Path, manner: str = "willing") -> Iterator[subprocess.Popen[str]]:
    """Start a supervisor of two roles, `dispatcher` and `worker`; yield once both are ready; kill it at the end."""
    argv = [sys.executable, "-c", SUPERVISOR, str(folder), ROLE, manner]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert within(20, lambda: is_ready(folder, "worker") and is_ready(folder, "dispatcher"))
            yield process
        finally:
            process.kill()


def test_stopping_drains_workers_before_the_rest(tmp_path: Path) -> None:
    """Workers end while the roles that they need still run. At the end no role runs and no status is published."""
    with supervisor(tmp_path) as process:
        pids = [one.pid for one in status_of(tmp_path).roles]

        stopped = stop_supervisor(tmp_path, timeout=timedelta(seconds=20))

        assert stopped
        assert process.wait(5) == 0
    assert (tmp_path / "notes").read_text().split() == ["worker", "dispatcher"]
    assert not any(is_alive(pid) for pid in pids if pid)
    assert read_status(tmp_path) is None


def test_a_killed_role_is_restarted_and_reported_once(tmp_path: Path) -> None:
    """One line tells an operator which role ended, how, and when it is restarted."""
    with supervisor(tmp_path) as process:
        first = role(tmp_path, "worker").pid
        assert first

        os.kill(first, signal.SIGKILL)

        assert within(10, lambda: is_ready(tmp_path, "worker", times=2))
        again = role(tmp_path, "worker")
        stop_supervisor(tmp_path, timeout=timedelta(seconds=20))
        assert process.stdout
        lines = process.stdout.read().splitlines()
    assert (again.state, again.restarts) == ("running", 1)
    assert again.pid != first
    assert len(lines) == 1
    assert lines[0].startswith("worker was killed by SIGKILL; restart 1 in ")


def test_ctrl_c_reaches_the_supervisor_only(tmp_path: Path) -> None:
    """Roles run in their own sessions, so signals of the terminal do not interrupt a drain."""
    with supervisor(tmp_path) as process:
        sessions = {os.getsid(one.pid) for one in status_of(tmp_path).roles if one.pid}

        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 0
    assert len(sessions) == 2
    assert os.getsid(0) not in sessions


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_roles_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    """After kill -9 of the supervisor no dispatcher keeps the leader lock, and the folder is free at once."""
    with supervisor(tmp_path) as process:
        pids = [one.pid for one in status_of(tmp_path).roles]

        process.kill()

        assert within(10, lambda: not any(is_alive(pid) for pid in pids if pid))
    assert sorted((tmp_path / "notes").read_text().split()) == ["dispatcher", "worker"]
    assert read_status(tmp_path) is None


def test_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    """After a second signal a role that does not end is killed. The exit code and one line say so."""
    with supervisor(tmp_path, "unwilling") as process:
        process.send_signal(signal.SIGTERM)
        assert within(10, lambda: status_of(tmp_path).state == "draining")

        process.send_signal(signal.SIGTERM)

        output, _ = process.communicate(timeout=15)
    assert process.returncode == 1
    assert output.splitlines() == ["worker did not end in time and was killed"]


def test_a_role_that_cannot_start_does_not_stop_the_others(tmp_path: Path) -> None:
    """A missing program is reported and tried again with longer delays, while the other roles run."""
    with supervisor(tmp_path, "broken") as process:
        assert within(10, lambda: role(tmp_path, "broken").restarts >= 1)
        others = {one.state for one in status_of(tmp_path).roles if one.name != "broken"}
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=15)

    assert others == {"running"}
    assert process.returncode == 0
    assert output.splitlines()[0].startswith("broken cannot start: [Errno 2] No such file or directory")


def test_a_crashed_server_is_started_again_at_its_address(tmp_path: Path) -> None:
    """The servers that the roles need are restarted at the same address."""
    script = f"""
import sys
from datetime import timedelta
from pathlib import Path
from local.embedded import throwaway_servers
from local.supervision import Supervisor
with throwaway_servers(postgres=False) as servers:
    with Supervisor(Path({str(tmp_path)!r}), grace=timedelta(0), report=lambda line: print(line, flush=True)) as up:
        up.start([], urls={{"redis_url": servers.urls.redis_url}})
        sys.exit(up.run(servers))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert within(20, lambda: bool(read_status(tmp_path) and status_of(tmp_path).state == "running"))
        with redis.Redis.from_url(status_of(tmp_path).urls["redis_url"]) as client:
            os.kill(client.info("server")["process_id"], signal.SIGKILL)

            assert process.stdout
            assert process.stdout.readline() == "valkey ended unexpectedly and was started again\n"
            assert client.ping()
        assert stop_supervisor(tmp_path, timeout=timedelta(seconds=20))
        assert process.wait(10) == 0


def test_a_second_supervisor_of_one_folder_is_refused(tmp_path: Path) -> None:
    """One line names the folder and its owner's process. The first supervisor is not disturbed."""
    with supervisor(tmp_path) as process:
        argv = [sys.executable, "-c", SUPERVISOR, str(tmp_path), ROLE, "willing"]
        second = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)

        assert status_of(tmp_path).pid == process.pid
        with pytest.raises(SupervisionError, match=f"process {process.pid} is still draining"):
            stop_supervisor(tmp_path, timeout=timedelta(0))
    assert second.returncode == 1
    assert second.stderr.startswith(f"data folder {str(tmp_path)!r} is in use by process {process.pid}")
    assert second.stderr.count("\n") == 1
