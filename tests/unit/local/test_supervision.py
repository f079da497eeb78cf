"""When a role is restarted, and what other commands can read about it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.data_dir import MAX_LOG_BYTES, open_log
from local.folder_lock import FolderInUseError, FolderLock
from local.processes import describe_exit
from local.supervision import HEALTHY_AFTER, MAX_RESTART_DELAY, RESTART_BASE, failures_after, restart_delay
from local.supervision_status import LOCK_FILE, STATUS_FILE, RoleStatus, SupervisorStatus, read_status, stop_supervisor

STATUS = SupervisorStatus(
    pid=7,
    started_at=datetime(2026, 11, 1, tzinfo=UTC),
    state="running",
    roles=(RoleStatus("worker-1", "backing off", None, 3),),
    urls={"database_url": "postgresql://gristmill:secret@127.0.0.1:5432/gristmill"},
)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (10_000, 30)])
def test_the_delay_doubles_to_its_maximum(failures: int, seconds: float) -> None:
    """The delay is 0.5 s, doubles with each failure, and is at most 30 s."""
    assert restart_delay(failures, draw=lambda: 0.0) == timedelta(seconds=seconds)


@given(failures=st.integers(min_value=0), draw=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_no_delay_is_so_short_that_a_crash_becomes_a_loop(failures: int, draw: float) -> None:
    """Jitter takes at most half of the delay away."""
    assert RESTART_BASE / 2 <= restart_delay(failures, draw=lambda: draw) <= MAX_RESTART_DELAY


def test_a_minute_without_failure_resets_the_count() -> None:
    """A role that ran for a minute is restarted as after its first failure."""
    assert failures_after(9, lived=HEALTHY_AFTER) == 1
    assert failures_after(9, lived=HEALTHY_AFTER - timedelta(seconds=1)) == 10


@pytest.mark.parametrize(
    ("status", "words"), [(3, "exited with status 3"), (-9, "was killed by SIGKILL"), (-64, "was killed by SIGRTMAX")]
)
def test_exits_are_described_in_words(status: int, words: str) -> None:
    """An operator reads a signal's name, not a negative number."""
    assert describe_exit(status) == words


def test_a_published_status_reads_back_as_it_was(tmp_path: Path) -> None:
    """`gristmill status` reads the supervisor's status in another process. Only the owner may read it."""
    STATUS.write(tmp_path)
    lock = FolderLock(tmp_path, LOCK_FILE)
    lock.acquire()

    assert read_status(tmp_path) == STATUS
    assert (tmp_path / STATUS_FILE).stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(STATUS)
    lock.release()


def test_the_status_of_a_dead_supervisor_is_ignored(tmp_path: Path) -> None:
    """The status file of a killed supervisor does not count, and no process is signalled because of it."""
    STATUS.write(tmp_path)

    assert read_status(tmp_path) is None
    assert stop_supervisor(tmp_path, timeout=timedelta(seconds=1)) is False


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    """The second owner is refused with the folder's name. It gets the lock after the first has released it."""
    first, second = FolderLock(tmp_path, "lock"), FolderLock(tmp_path, "lock")
    first.acquire()

    with pytest.raises(FolderInUseError, match=str(tmp_path)) as refusal:
        second.acquire()
    assert refusal.value.holder == second.holder()
    first.release()
    second.acquire()
    second.release()
    assert second.holder() is None


def test_a_log_that_grew_too_long_is_rotated_at_the_next_start(tmp_path: Path) -> None:
    """Logs are appended to, private, and limited to two files."""
    with open_log(tmp_path, "worker-1") as log:
        log.truncate(MAX_LOG_BYTES + 1)
    with open_log(tmp_path, "worker-1") as log:
        log.write(b"fresh\n")

    assert (tmp_path / "worker-1.log").read_bytes() == b"fresh\n"
    assert (tmp_path / "worker-1.log").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "worker-1.log.1").stat().st_size == MAX_LOG_BYTES + 1
