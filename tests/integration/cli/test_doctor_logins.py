"""`gristmill doctor` with each login of `migrate --roles`: a check that a login may not make does not fail."""

import json

import pytest

from cli.doctor.roles import check_notices
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
    """Return the exit code and the checks by name, run with the login of one kind."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    def run(kind, *words):
        monkeypatch.setenv("DATABASE_URL", logins[kind])
        code, output, _ = gristmill("doctor", "--json", *words)
        return code, {check["name"]: check for check in json.loads(output)["checks"]}

    return run


@pytest.mark.parametrize("kind", GROUPS)
def test_a_check_that_a_login_may_not_make_is_not_checked(doctor, kind):
    """It is not a failure, because its remedy would not help."""
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
    """It is the health check of containers."""
    code, checks = doctor(kind, "--quick")

    assert code == 0
    assert checks["schema"]["state"] == ("unchecked" if kind == "service" else "ok")


def test_the_operators_login_sees_the_mode_and_not_the_keys(gristmill, logins, monkeypatch):
    """Only the owner of the tables sees the keys. The rest of the status is shown."""
    monkeypatch.setenv("DATABASE_URL", logins["operator"])

    code, printed, _ = gristmill("security", "status")
    as_data = json.loads(gristmill("security", "status", "--json")[1])

    assert code == 0
    assert "strict mode is off" in printed
    assert "keys: this login may not see them" in printed
    assert (as_data["strict"], as_data["keys"]) == (False, None)


def test_the_owner_sees_the_keys(gristmill):
    """The owner of the tables may read them."""
    gristmill("security", "new-key")

    as_data = json.loads(gristmill("security", "status", "--json")[1])

    assert len(as_data["keys"]) == 1


async def test_a_nearly_full_notification_queue_fails_the_check(database):
    """A session that listens and keeps a transaction open fills it; then every commit with a NOTIFY fails."""
    async with database.kernel() as conn:
        well, full = await check_notices(conn), await check_notices(conn, max_usage=0.0)

    assert (well.state, well.found) == ("ok", "0% of the notification queue is used")
    assert full.state == "failed"
    assert "pg_stat_activity" in full.remedy


def test_a_gateway_with_rights_of_its_own_is_warned_of(psql, gristmill):
    """A route without a check could use them."""
    psql.execute("GRANT gristmill_service TO gristmill_gateway WITH INHERIT TRUE")
    try:
        checks = json.loads(gristmill("doctor", "--json")[1])["checks"]
    finally:
        psql.execute("GRANT gristmill_service TO gristmill_gateway WITH INHERIT FALSE")

    [check] = [check for check in checks if check["name"] == "logins"]
    assert check["state"] == "warning"
    assert "WITH INHERIT FALSE" in check["remedy"]
