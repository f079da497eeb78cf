"""The stored state of the embedded servers, and what happens if it is lost."""

import os
from pathlib import Path

import pytest

from local.embedded.account import ServerAccount
from local.embedded.errors import EmbeddedError
from local.embedded.home import STATE_FILE, ServersState, check_owner, prepare_home

MYSELF = ServerAccount("me", os.geteuid(), os.getegid(), switch=False)


def test_password_and_home_are_the_same_at_the_next_start(tmp_path: Path) -> None:
    """A second start finds the data and the password of the first."""
    first_home, first = prepare_home(tmp_path, MYSELF)
    second_home, second = prepare_home(tmp_path, MYSELF)

    assert (first_home, first) == (second_home, second)
    assert first_home.is_relative_to(tmp_path)


def test_password_is_kept_private_and_out_of_representations(tmp_path: Path) -> None:
    """Only its owner may read the state file, and the repr of a state has no password."""
    _, state = prepare_home(tmp_path, MYSELF)

    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600
    assert state.password not in repr(state)


def test_data_without_its_state_is_set_aside_not_deleted(tmp_path: Path) -> None:
    """If the password of old data is lost, the data does not block a start and is not deleted."""
    home, _ = prepare_home(tmp_path, MYSELF)
    (home / "precious").touch()
    (tmp_path / STATE_FILE).unlink()

    new_home, _ = prepare_home(tmp_path, MYSELF)

    assert new_home == home
    assert not (home / "precious").exists()
    assert (home.with_name("servers.old") / "precious").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"password": "x", "colour": "red"}'])
def test_unreadable_state_is_named_not_replaced(tmp_path: Path, text: str) -> None:
    """A damaged state file stops the start with one line. With a new password the data could never be read again."""
    (tmp_path / STATE_FILE).write_text(text)

    with pytest.raises(EmbeddedError, match=STATE_FILE):
        ServersState.read(tmp_path / STATE_FILE)


def test_data_of_another_user_is_refused_by_name(tmp_path: Path) -> None:
    """Servers do not start on data that they could not write."""
    stranger = ServerAccount("stranger", os.geteuid() + 1, os.getegid(), switch=False)

    with pytest.raises(EmbeddedError, match=f"belongs to uid {os.geteuid()}.*'stranger'"):
        check_owner(tmp_path, stranger)
