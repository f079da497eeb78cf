"""The form of API keys: typing errors are found without the database, and scopes are a closed list."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.runtime.api_keys import SCOPES as SCOPES_OF_TABLE
from workers.runtime.api_keys import SCOPES, allows, hash_of, hint_of, is_api_key, new_api_key

BASE62 = string.digits + string.ascii_letters


def test_a_new_key_has_its_form():
    """`gm_`, 30 random characters and 6 of their checksum, all base62; no two are equal."""
    keys = {new_api_key() for _ in range(200)}

    assert len(keys) == 200
    for key in keys:
        assert key.startswith("gm_")
        assert len(key) == 39
        assert set(key[3:]) <= set(BASE62)
        assert is_api_key(key)


@given(place=st.integers(3, 38), character=st.sampled_from(BASE62))
def test_one_wrong_character_is_found(place, character):
    """A CRC finds every single wrong character."""
    key = new_api_key()
    typed = key[:place] + character + key[place + 1 :]

    assert is_api_key(typed) == (typed == key)


@given(place=st.integers(3, 37))
def test_two_swapped_characters_are_found(place):
    """The most common error of somebody who types."""
    key = new_api_key()
    typed = key[:place] + key[place + 1] + key[place] + key[place + 2 :]

    assert is_api_key(typed) == (typed == key)


@pytest.mark.parametrize(
    "text",
    ["", "gm_", "sk_" + "a" * 36, "gm_" + "é" * 36, "gm_" + "0" * 35, "gm_" + "0" * 36, "gm_" + "\0" * 36, " " * 39],
)
def test_what_is_no_key_is_refused(text):
    """Without an error, whatever it is."""
    assert not is_api_key(text)


def test_spaces_around_a_key_are_not_part_of_it():
    """Nothing is trimmed: two texts never mean the same key."""
    key = new_api_key()

    assert not is_api_key(f" {key}")
    assert not is_api_key(f"{key}\n")


def test_the_checksum_never_changes():
    """Keys that were given out stay valid in later releases."""
    assert is_api_key("gm_00000000000000000000000000000032ZA3v")
    assert is_api_key("gm_0123456789abcdefghijABCDEFGHIJ0ZLnu8")


def test_the_hint_and_the_hash_do_not_give_the_key_away():
    """The hint has four of the thirty random characters."""
    key = new_api_key()

    assert hint_of(key) == key[:7]
    assert len(hash_of(key)) == 32


@pytest.mark.parametrize(
    ("held", "wanted", "is_allowed"),
    [
        (["jobs:read"], "jobs:read", True),
        (["jobs:write"], "jobs:read", False),
        (["scoring"], "scoring:read", True),
        (["scoring:read"], "scoring", False),
        (["scoring"], "operations", False),
        (["operate"], "operate:read", True),
        (["operate"], "admin", False),
        (["admin"], "operate", True),
        (["admin"], "jobs:write", True),
        ([], "jobs:read", False),
    ],
)
def test_what_a_scope_includes(held, wanted, is_allowed):
    """`X` includes `X:read`, admin everything, and writing jobs does not include reading them."""
    assert allows(held, wanted) is is_allowed


def test_the_table_knows_the_same_scopes():
    """The constraint and the code have one list."""
    assert SCOPES_OF_TABLE.split(", ") == list(SCOPES)
