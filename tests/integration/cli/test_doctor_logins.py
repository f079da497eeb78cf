"""`gristmill doctor` under each login that `migrate --roles` makes: what a login may not look at is no failure."""

import json

import pytest

from cli.doctor.roles import notices
from local.logins import make_logins
from workers.operations.keyring import new_key
from workers.runtime.operate.logins import GROUPS

# Nothing runs here, so these fail for whoever may look at them.
NOT_RUNNING = {"dispatcher", "beat", "workers"}
UNCHECKED = {
    "operator": set(),
    "worker": {"strict mode"},
    "dispatcher": {"strict mode", "pgvector", "secrets", "provider"},
    "gateway": {"beat", "strict mode"},
    "service": {"schema"},
}


@pytest.fixture
def logins(database_url, tmp_path):
    """Return the URL of every login on the test's database, by kind."""
    return {one.kind: one.url for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}


@pytest.fixture
def doctor(gristmill, logins, monkeypatch):
    """Return a command's exit code, and its checks by name, as one kind of login."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    def run(kind, *words):
        monkeypatch.setenv("DATABASE_URL", logins[kind])
        code, output, _ = gristmill("doctor", "--json", *words)
        return code, {check["name"]: check for check in json.loads(output)["checks"]}

    return run


@pytest.mark.parametrize("kind", GROUPS)
def test_a_check_that_a_login_may_not_make_is_told_as_not_checked(doctor, kind):
    """Never as a failure with a remedy that mends nothing."""
    _, checks = doctor(kind)

    unchecked = {name for name, check in checks.items() if check["state"] == "unchecked"}
    failed = {name for name, check in checks.items() if check["state"] == "failed"}
    assert unchecked >= UNCHECKED[kind]
    assert unchecked == set() or kind != "operator"
    assert failed <= NOT_RUNNING
    assert checks["Postgres"]["state"] == "ok"
    assert {checks[name]["found"] for name in unchecked} <= {"not checked: needs the operator's login"}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_quick_check_is_well_under_every_login(doctor, kind):
    """Containers call it as their health check."""
    code, checks = doctor(kind, "--quick")

    assert code == 0
    assert checks["schema"]["state"] == ("unchecked" if kind == "service" else "ok")


def test_the_operators_login_sees_the_mode_and_not_the_keys(gristmill, logins, monkeypatch):
    """Keys are for the tables' owner; the rest of the status is shown."""
    monkeypatch.setenv("DATABASE_URL", logins["operator"])

    code, printed, _ = gristmill("security", "status")
    as_data = json.loads(gristmill("security", "status", "--json")[1])

    assert code == 0
    assert "strict mode is off" in printed
    assert "keys: this login may not see them" in printed
    assert (as_data["strict"], as_data["keys"]) == (False, None)


def test_the_owner_sees_the_keys(gristmill):
    """As before."""
    gristmill("security", "new-key")

    as_data = json.loads(gristmill("security", "status", "--json")[1])

    assert len(as_data["keys"]) == 1


async def test_a_queue_of_notices_that_fills_is_told(database):
    """Sessions that listen and keep a transaction open hold it; then every commit that sends a notice would fail."""
    async with database.kernel() as conn:
        well, full = await notices(conn), await notices(conn, most=0.0)

    assert (well.state, well.found) == ("ok", "0% of their queue is used")
    assert full.state == "failed"
    assert "pg_stat_activity" in full.mend
