"""Which folders and programs the servers' account may access, computed from their modes."""

import os
import stat
from pathlib import Path

import pytest

from local.embedded.account import ServerAccount

ACCOUNT = ServerAccount("nobody", uid=65_534, gid=65_533, switch=True)


def entry(mode: int, *, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 0, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        (entry(0o755), True),
        (entry(0o711), True),
        (entry(0o700), False),
        (entry(0o710), False),
        (entry(0o710, gid=65_533), True),
        (entry(0o701, gid=65_533), False),
        (entry(0o700, uid=65_534), True),
        (entry(0o077, uid=65_534), False),
    ],
)
def test_the_most_specific_class_of_the_mode_decides(place: os.stat_result, *, allowed: bool) -> None:
    """As in the kernel, an owner or a group member does not get the rights of others."""
    assert ACCOUNT.permits(place, stat.S_IXOTH) is allowed


def test_one_closed_parent_closes_every_folder_below(tmp_path: Path) -> None:
    """An account may enter a folder only if it may enter all its parents."""
    below = tmp_path / "closed" / "open"
    below.mkdir(parents=True)
    below.parent.chmod(0o700)

    assert not ACCOUNT.may_enter(below)
    assert ACCOUNT.may_enter(Path("/"))


def test_nothing_is_checked_for_a_caller_that_keeps_its_own_account(tmp_path: Path) -> None:
    """Only root changes the account. For other users the operating system reports a missing right."""
    myself = ServerAccount("me", os.geteuid(), os.getegid(), switch=False)

    assert myself.may_enter(tmp_path)
    assert myself.run_as is None
