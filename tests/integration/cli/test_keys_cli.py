"""``gristmill keys``: a key is shown once, refusals name the field, and a revoked key stays in the list."""

import stat

import pytest

from local.api_key import make_development_key, read_development_key
from local.logins import make_logins
from tests.support.command_line import as_json
from workers.runtime.api_keys import SCOPES, hash_of, is_api_key, new_api_key

NOBODY = "00000000-0000-4000-8000-000000000009"


@pytest.fixture
def ada(psql) -> str:
    """The id of a user."""
    return str(psql.execute("INSERT INTO auth.users (email) VALUES ('ada') RETURNING id").fetchone()["id"])


def test_a_key_is_printed_once_and_stored_as_its_hash(gristmill, psql, ada):
    """Standard output has the key alone, so that a script can read it."""
    code, printed, said = gristmill(
        "keys", "create", "--name", "billing", "--scopes", "jobs:read, jobs:write", "--acts-for", ada
    )

    secret = printed.strip()
    assert code == 0
    assert is_api_key(secret)
    assert "not shown again" in said
    [row] = psql.execute("SELECT * FROM runtime.api_keys").fetchall()
    assert (row["name"], row["scopes"], str(row["acts_for"])) == ("billing", ["jobs:read", "jobs:write"], ada)
    assert (row["key_hash"], row["hint"], row["expires_at"]) == (hash_of(secret), secret[:7], None)
    assert row["created_by"].startswith("cli:")
    assert secret[8:] not in "".join(gristmill("keys", "list")[1:] + gristmill("keys", "list", "--json")[1:])


A_READER = ("--name", "a", "--scopes", "jobs:read")
REFUSED = {
    "scopes must be among jobs:read, ": ("--name", "a", "--scopes", "jobs:delete"),
    "scopes must name at least one of ": ("--name", "a", "--scopes", " , "),
    "name must be 1 to 63 letters, ": ("--name", "a b", "--scopes", "admin"),
    "name must be 1 to 63 letters, digits, ": ("--name", "é", "--scopes", "admin"),
    "acts_for must not be given with scope admin, ": ("--name", "a", "--scopes", "admin", "--acts-for", NOBODY),
    "acts_for is required unless scopes include ": A_READER,
    "acts_for must be the id of a user in auth.users, got ": (*A_READER, "--acts-for", NOBODY),
    "expires_at must be in the future, got 2001": ("--name", "a", "--scopes", "admin", "--expires", "2001-01-01"),
    "time must be ISO 8601, ": ("--name", "a", "--scopes", "admin", "--expires", "soon"),
}


@pytest.mark.parametrize(("line", "arguments"), REFUSED.items())
def test_a_wrong_key_is_refused_in_one_line(gristmill, psql, line, arguments):
    """The field, the rule and the value; nothing is stored."""
    code, _, said = gristmill("keys", "create", *arguments)

    assert code == 2
    assert said.startswith(f"gristmill: {line}")
    assert "\n" not in said
    assert psql.execute("SELECT FROM runtime.api_keys").fetchall() == []


def test_the_name_of_a_key_in_use_is_taken(gristmill):
    """Until it is revoked."""
    create = ("keys", "create", "--name", "a", "--scopes", "admin")
    assert gristmill(*create)[0] == 0

    code, _, said = gristmill(*create)
    assert (code, "name must not be the name of a key that is not revoked" in said) == (1, True)
    assert gristmill("keys", "revoke", "a")[0] == 0
    assert gristmill(*create)[0] == 0


def test_a_revoked_key_stays_in_the_list_with_its_reason(gristmill):
    """The list is the audit."""
    made = as_json(gristmill, "keys", "create", "--name", "a", "--scopes", "operate", "--expires", "90d")

    assert is_api_key(made["secret"])
    revoked = as_json(gristmill, "keys", "revoke", made["key"]["id"], "--reason", "it leaked")
    assert (revoked["state"], revoked["revoke_reason"]) == ("revoked", "it leaked")
    assert revoked["revoked_by"].startswith("cli:")
    assert as_json(gristmill, "keys", "list") == []
    assert as_json(gristmill, "keys", "list", "--all") == [revoked]
    assert "it leaked" in gristmill("keys", "list", "--all")[1]
    code, _, said = gristmill("keys", "revoke", "a")
    assert (code, "was revoked at" in said) == (1, True)


def test_revoking_what_is_not_there_never_quotes_a_key(gristmill):
    """Somebody may give the key instead of its name."""
    secret = new_api_key()

    for given in ("nothing", secret):
        code, _, said = gristmill("keys", "revoke", given)
        assert (code, said.startswith("gristmill: key must be the name or the id of a key")) == (1, True)
        assert secret[8:] not in said


@pytest.mark.parametrize("kind", ["worker", "dispatcher", "gateway", "service"])
def test_only_operators_make_keys(gristmill, database_url, tmp_path, monkeypatch, kind):
    """Every other login is refused by the database, in one line."""
    made = {one.kind: one.url for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}

    monkeypatch.setenv("DATABASE_URL", made["operator"])
    assert gristmill("keys", "create", "--name", "b", "--scopes", "admin")[0] == 0
    monkeypatch.setenv("DATABASE_URL", made[kind])
    for command in (("create", "--name", "a", "--scopes", "admin"), ("list",), ("revoke", "b")):
        code, _, said = gristmill("keys", *command)
        assert (code, "permission denied" in said) == (1, True), said


# ── the development key ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_development_key_is_made_once_and_private(database_url, psql, tmp_path):
    """A second start keeps it. It allows everything and acts for nobody."""
    first = make_development_key(database_url, tmp_path, is_embedded=True)
    again = make_development_key(database_url, tmp_path, is_embedded=True)

    assert (first.is_new, again.is_new) == (True, False)
    assert first.secret == again.secret == read_development_key(tmp_path)
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert first.secret not in repr(first)
    rows = psql.execute("SELECT name, scopes, acts_for FROM runtime.api_keys").fetchall()
    assert rows == [{"name": "development", "scopes": list(SCOPES), "acts_for": None}]


def test_a_lost_or_revoked_development_key_is_replaced(database_url, gristmill, psql, tmp_path):
    """The lost one is revoked: nobody can use it any more."""
    lost = make_development_key(database_url, tmp_path, is_embedded=True)
    lost.path.unlink()
    second = make_development_key(database_url, tmp_path, is_embedded=True)
    gristmill("keys", "revoke", "development")
    third = make_development_key(database_url, tmp_path, is_embedded=True)

    assert len({lost.secret, second.secret, third.secret}) == 3
    assert third.is_new
    valid = "SELECT key_hash FROM runtime.api_keys WHERE revoked_at IS NULL"
    assert psql.execute(valid).fetchall() == [{"key_hash": hash_of(third.secret)}]


def test_two_folders_on_one_server_have_a_key_each(database_url, psql, tmp_path):
    """Neither takes the key from the other."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_development_key(database_url, tmp_path / name, is_embedded=False)

    found = psql.execute("SELECT name, revoked_at FROM runtime.api_keys").fetchall()
    assert len({row["name"] for row in found}) == 2
    assert all(row["name"].startswith("development-") and row["revoked_at"] is None for row in found)
