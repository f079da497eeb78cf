"""A service and the callbacks of others: it sees and changes its own, and reads no secret."""

import uuid

import psycopg
import pytest
from psycopg import errors

URL = "https://service.example/hook"


@pytest.fixture
def owners(psql):
    """Two tenants and the operators, each with an endpoint, a secret for one-off addresses, and a delivery."""
    ids: dict[str, uuid.UUID | None] = {"alice": uuid.uuid4(), "bob": uuid.uuid4(), "operators": None}
    found = dict(ids)
    for name, owner in ids.items():
        add = "INSERT INTO notifications.endpoints (owner_id, url, secret) VALUES (%s, %s, 'hidden') RETURNING id"
        found[f"{name}.endpoint"] = psql.execute(add, [owner, URL]).fetchone()["id"]
        psql.execute(add, [owner, None])
        ping = psql.execute("SELECT notifications.ping(%s) AS id", [found[f"{name}.endpoint"]]).fetchone()["id"]
        found[f"{name}.delivery"] = ping
        psql.execute(
            """UPDATE notifications.deliveries SET status = 'cancelled', version = 2, completed_at = now()
                WHERE id = %s""",
            [ping],
        )
    return found


@pytest.fixture
def speak(psql, owners):
    """Act as a service for a tenant until the test ends; everything is rolled back."""
    with psql.transaction(force_rollback=True):

        def speak(name: str | None):
            psql.execute("RESET ROLE")
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(owners[name]) if name else ""])
            return psql

        yield speak


def refused(psql, statement, *values):
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(statement, values or None)
    return caught.value


def ask(psql, statement, *values):
    with psql.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        return cursor.execute(statement, values or None).fetchall()


def test_a_tenant_sees_its_own_endpoints_and_deliveries(psql, owners, speak):
    """Of others none; a service without a user sees nothing, not even those of the operators."""
    counts = """SELECT (SELECT count(id) FROM notifications.endpoints), (SELECT count(*) FROM notifications.deliveries),
                       (SELECT count(DISTINCT owner_id) FROM notifications.endpoint_changes)"""

    speak("alice")
    assert ask(psql, counts) == [(2, 1, 1)]
    assert ask(psql, "SELECT DISTINCT owner_id FROM notifications.endpoints") == [(owners["alice"],)]
    speak(None)
    assert ask(psql, counts) == [(0, 0, 0)]


@pytest.mark.parametrize("column", ["secret", "previous_secret", "*"])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT {} FROM notifications.endpoints",
        "UPDATE notifications.endpoints SET disabled_reason = NULL RETURNING {}",
        "INSERT INTO notifications.endpoints (url, secret) VALUES ('https://a.example', 's') RETURNING {}",
    ],
)
def test_no_service_reads_a_secret(psql, speak, statement, column):
    """Not even an encrypted one of its own."""
    speak("alice")

    assert isinstance(refused(psql, statement.format(column)), errors.InsufficientPrivilege)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM notifications.endpoints WHERE secret LIKE 'h%%'",
        "SELECT 1 FROM notifications.endpoints ORDER BY previous_secret",
        "UPDATE notifications.endpoints SET url = secret",
        "UPDATE notifications.endpoints SET disabled_reason = previous_secret",
    ],
)
def test_no_service_finds_a_secret_out(psql, speak, statement):
    """Neither by comparing nor by copying it."""
    speak("alice")

    assert isinstance(refused(psql, statement), errors.InsufficientPrivilege)


def test_a_lane_shows_no_password_of_an_address(psql):
    """The reason why a delivery waits names its lane. Only SQL takes such an address: no attempt will call it."""
    add = """INSERT INTO notifications.deliveries (event, url, job_id, job_stage, job_status, job_version)
             VALUES ('job.failed', %s, uuidv7(), 's', 'failed', 1) RETURNING lane"""

    assert psql.execute(add, ["https://u:p@ss@A.example:8443/x?y=b@c"]).fetchone()["lane"] == "operators a.example:8443"
    assert psql.execute(add, ["https://a.example/x@y"]).fetchone()["lane"] == "operators a.example"


@pytest.mark.parametrize("whose", ["bob", "operators"])
def test_what_belongs_to_others_looks_as_if_it_did_not_exist(psql, owners, speak, whose):
    """Neither changed, deleted, tested nor sent again."""
    endpoint, delivery, nothing = owners[f"{whose}.endpoint"], owners[f"{whose}.delivery"], uuid.uuid4()
    speak("alice")

    for id_ in (endpoint, nothing):
        changed = psql.execute("UPDATE notifications.endpoints SET url = %s WHERE id = %s", [URL + "/2", id_])
        assert changed.rowcount == 0
        assert ask(psql, "SELECT notifications.delete_endpoint(%s)", id_) == [(False,)]
        assert ask(psql, "SELECT notifications.ping(%s)", id_) == [(None,)]
    for id_ in (delivery, nothing):
        assert ask(psql, "SELECT notifications.resend(%s)", id_) == [(None,)]


def test_a_tenant_keeps_its_own(psql, owners, speak):
    """Change, test, send again, delete: each once."""
    speak("alice")
    endpoint, delivery = owners["alice.endpoint"], owners["alice.delivery"]

    psql.execute("UPDATE notifications.endpoints SET url = %s, secret = 'new' WHERE id = %s", [URL + "/2", endpoint])
    assert ask(psql, "SELECT version, previous_until > now() FROM notifications.endpoints WHERE id = %s", endpoint) == [
        (2, True)
    ]
    assert ask(psql, "SELECT notifications.resend(%s, 1)", delivery) == [(None,)]
    assert ask(psql, "SELECT notifications.resend(%s, 2)", delivery) == [(3,)]
    assert ask(psql, "SELECT notifications.resend(%s)", delivery) == [(None,)]
    assert ask(psql, "SELECT notifications.ping(%s) IS NOT NULL", endpoint) == [(True,)]
    assert ask(psql, "SELECT notifications.delete_endpoint(%s, 1)", endpoint) == [(False,)]
    assert ask(psql, "SELECT notifications.delete_endpoint(%s, 2)", endpoint) == [(True,)]
    [(by,)] = ask(psql, "SELECT changed_by FROM notifications.endpoint_changes WHERE action = 'deleted'")
    assert by


@pytest.mark.parametrize("column", ["owner_id", "every_owner", "version", "consecutive_failures", "created_by", "id"])
def test_a_tenant_sets_nothing_that_makes_it_hear_others(psql, owners, speak, column):
    """Neither at an insert nor by an update."""
    speak("alice")

    insert = f"INSERT INTO notifications.endpoints (url, secret, {column}) VALUES ('https://a.example', 's', DEFAULT)"
    assert isinstance(refused(psql, insert), errors.InsufficientPrivilege)
    update = f"UPDATE notifications.endpoints SET {column} = DEFAULT"
    assert isinstance(refused(psql, update), errors.InsufficientPrivilege)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO notifications.deliveries (event, url) VALUES ('job.completed', 'http://10.0.0.1')",
        "UPDATE notifications.deliveries SET url = 'http://10.0.0.1'",
        "DELETE FROM notifications.deliveries",
        "DELETE FROM notifications.endpoints",
        "INSERT INTO notifications.endpoint_changes DEFAULT VALUES",
        "DELETE FROM notifications.endpoint_changes",
        "SELECT notifications.take('{}')",
        "INSERT INTO runtime.notice_interests (every_owner) VALUES (true)",
        "TABLE runtime.notices",
    ],
)
def test_a_service_writes_no_delivery_and_no_record(psql, speak, statement):
    """Deliveries are made of notices, records by a trigger."""
    speak("alice")

    assert isinstance(refused(psql, statement), errors.InsufficientPrivilege)


def test_a_name_that_a_service_gives_itself_is_marked(psql, owners, speak):
    """So that nobody takes it for a worker or an operator."""
    speak("alice")
    psql.execute("SELECT set_config('gristmill.changed_by', 'worker:1', true)")
    psql.execute("UPDATE notifications.endpoints SET url = 'https://b.example' WHERE url IS NOT NULL")

    assert ask(psql, "SELECT changed_by FROM notifications.endpoint_changes WHERE action = 'changed'") == [
        ("gristmill_service as worker:1",)
    ]


def test_a_service_cannot_pass_off_a_new_secret_as_the_old_one(psql, owners, speak):
    """Encrypting again is for operators: otherwise the previous secret would be lost without a record."""
    speak("alice")
    psql.execute("SELECT set_config('gristmill.change_action', 'reencrypt', true)")
    psql.execute("UPDATE notifications.endpoints SET secret = 'new' WHERE url IS NOT NULL")

    psql.execute("RESET ROLE")
    assert ask(
        psql, "SELECT previous_secret, version FROM notifications.endpoints WHERE id = %s", owners["alice.endpoint"]
    ) == [("hidden", 2)]


@pytest.mark.parametrize("role", ["gristmill_dispatcher", "gristmill_gateway"])
def test_neither_dispatcher_nor_gateway_reads_endpoints(psql, owners, role):
    """The dispatcher takes notices by a function; the gateway acts as its callers."""
    with psql.transaction(force_rollback=True):
        psql.execute(f"SET LOCAL ROLE {role}")
        assert isinstance(refused(psql, "SELECT id FROM notifications.endpoints"), errors.InsufficientPrivilege)
