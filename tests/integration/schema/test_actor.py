"""The user that a service acts for: a name, a signature in strict mode, or the binding of its login."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg import errors, sql

from tests.support.command_line import as_json
from workers.runtime.actor_signature import new_key, pads, sign_actor

ADMIN, MALLORY = uuid.uuid4(), uuid.uuid4()
KEY = new_key()
SOON = timedelta(minutes=5)


def at(span: timedelta) -> datetime:
    return datetime.now(UTC) + span


def keep_key(psql, key: bytes, *, ended: bool = False) -> None:
    inner, outer = pads(key)
    psql.execute(
        "INSERT INTO runtime.actor_keys (inner_pad, outer_pad, expires_at)"
        " VALUES (%s, %s, CASE WHEN %s THEN now() - interval '1 second' END)",
        [inner, outer, ended],
    )


@pytest.fixture
def strict(psql):
    """Strict mode with one key."""
    keep_key(psql, KEY)
    psql.execute("INSERT INTO runtime.security (id, strict, changed_by) VALUES (1, true, 'test')")


@pytest.fixture
def login(psql, database_url):
    """Create logins in a group, dropped after the test; return a connection of each."""
    made, opened = [], []

    def log_in(group: str = "gristmill_service", *, binds: UUID | None = None) -> psycopg.Connection:
        name = f"test_{uuid.uuid4().hex[:12]}"
        psql.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw' IN ROLE {}").format(*map(sql.Identifier, (name, group)))
        )
        made.append(name)
        if binds:
            psql.execute("INSERT INTO runtime.role_actors (role_name, user_id) VALUES (%s, %s)", [name, binds])
        url = psycopg.conninfo.make_conninfo(database_url, user=name, password="pw")
        opened.append(psycopg.connect(url, autocommit=True))
        return opened[-1]

    yield log_in
    for connection in opened:
        connection.close()
    for name in made:
        psql.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", [name])
        psql.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def service(login):
    """A connection of a service."""
    return login()


def say(connection, user: object, signature: str | None = None) -> None:
    connection.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(user)])
    connection.execute("SELECT set_config('gristmill.user_signature', %s, false)", [signature or ""])


def actor(connection) -> UUID | None:
    found: UUID | None = connection.execute("SELECT runtime.actor_id()").fetchone()[0]
    return found


def test_without_strict_mode_a_service_is_believed(service):
    """It names the user that it acts for; without a name it acts for nobody."""
    assert actor(service) is None

    say(service, ADMIN)

    assert actor(service) == ADMIN


def test_what_is_no_id_is_refused_in_one_line(service):
    """The line has the setting, the rule and the value; an invalid id never counts as nobody."""
    say(service, "admin' OR true --")

    with pytest.raises(errors.InvalidParameterValue, match=r"gristmill\.user_id must be a UUID, got 'admin'' OR"):
        actor(service)


@pytest.mark.usefixtures("strict")
def test_a_signed_user_is_believed(service):
    """The signature is of that user, by a key in the database, and has not expired."""
    say(service, ADMIN, sign_actor(KEY, ADMIN, expires=at(SOON)))

    assert actor(service) == ADMIN


@pytest.mark.usefixtures("strict")
def test_nobody_needs_no_signature(service):
    """A service that names no user sees no rows of users, so there is nothing to sign."""
    assert actor(service) is None


def fair(key: bytes = KEY, user: UUID = ADMIN, span: timedelta = SOON) -> str:
    return sign_actor(key, user, expires=at(span))


def later(signature: str) -> str:
    """Return a signature with another time in front of it."""
    expires, _, mac = signature.partition(".")
    return f"{int(expires) + 60}.{mac}"


FORGED: dict[str, tuple[Callable[[], str | None], str]] = {
    "none": (lambda: None, "needs gristmill.user_signature in strict mode, got none"),
    "words": (lambda: "true", "must be EXPIRES.HEX"),
    "another user's": (lambda: fair(user=MALLORY), "is not one of user"),
    "another key's": (lambda: fair(new_key()), "no valid key made it"),
    "expired": (lambda: fair(span=-timedelta(seconds=1)), "expired at"),
    "for ever": (lambda: fair(span=timedelta(days=365)), "must expire within a day"),
    "prolonged": (lambda: later(fair()), "is not one of user"),
    "in capitals": (lambda: fair().upper(), "must be EXPIRES.HEX"),
    "cut": (lambda: fair()[:-2], "must be EXPIRES.HEX"),
    "more behind": (lambda: f"{fair()}\n", "must be EXPIRES.HEX"),
    "huge": (lambda: "9" * 5_000 + "." + "0" * 64, "must be EXPIRES.HEX"),
}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_signature_raises_and_widens_nothing(service, forged):
    """The error is one clear line. The actor is never silently nobody, which a policy could take for somebody."""
    sign, said = FORGED[forged]
    say(service, ADMIN, sign())

    with pytest.raises(errors.InvalidAuthorizationSpecification, match=said):
        actor(service)


@pytest.mark.usefixtures("strict")
def test_a_signature_ends_while_its_session_lives(service):
    """A signature that was valid a moment ago is refused after its end."""
    say(service, ADMIN, sign_actor(KEY, ADMIN, expires=at(timedelta(seconds=2))))
    assert actor(service) == ADMIN

    service.execute(
        "SELECT pg_sleep_until(to_timestamp(split_part(current_setting('gristmill.user_signature'), '.', 1)::bigint))"
    )

    with pytest.raises(errors.InvalidAuthorizationSpecification, match="expired at"):
        actor(service)


@pytest.mark.usefixtures("strict")
def test_two_keys_are_valid_while_one_replaces_the_other(psql, service):
    """In a rotation the new key is valid at once, the old one until its end."""
    new = new_key()
    keep_key(psql, new)
    for key in (KEY, new):
        say(service, ADMIN, sign_actor(key, ADMIN, expires=at(SOON)))
        assert actor(service) == ADMIN

    psql.execute("UPDATE runtime.actor_keys SET expires_at = now() WHERE inner_pad = %s", [pads(KEY)[0]])

    assert actor(service) == ADMIN
    say(service, ADMIN, sign_actor(KEY, ADMIN, expires=at(SOON)))
    with pytest.raises(errors.InvalidAuthorizationSpecification, match="no valid key made it"):
        actor(service)


@pytest.mark.parametrize("length", [32, 63, 64, 65, 200])
def test_python_and_the_database_sign_alike(psql, length):
    """HMAC-SHA-256 by the two pads, whatever the length of the key (RFC 2104)."""
    key, expires = bytes(range(256))[:length], at(SOON)

    [row] = psql.execute(
        "SELECT encode(runtime.actor_signature(%s, %s, %s, %s), 'hex') AS hex",
        [*pads(key), ADMIN, int(expires.timestamp())],
    )

    assert sign_actor(key, ADMIN, expires=expires) == f"{int(expires.timestamp())}.{row['hex']}"


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("group", ["gristmill_worker", "gristmill_dispatcher", "gristmill_operator"])
def test_our_own_processes_need_no_signature(login, group):
    """They act for no user and see all rows anyway."""
    ours = login(group)
    say(ours, ADMIN)

    assert actor(ours) == ADMIN


@pytest.mark.usefixtures("strict")
def test_a_superuser_that_becomes_a_service_is_held_for_one(psql):
    """A pooler's login does this when it sets a role for each request; it also holds inside functions of the owner."""
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_service")
        say(psql, ADMIN)
        with pytest.raises(errors.InvalidAuthorizationSpecification), psql.transaction():
            psql.execute("SELECT runtime.actor_id()")
        psql.execute("SET LOCAL debug_parallel_query = on")
        with pytest.raises(errors.InvalidAuthorizationSpecification), psql.transaction():
            psql.execute("SELECT runtime.actor_id()")


OF_THE_OWNER = (
    "SELECT * FROM runtime.actor_keys",
    "TABLE runtime.role_actors",
    "TABLE runtime.security",
    "UPDATE runtime.security SET strict = false",
    "DELETE FROM runtime.security",
    "INSERT INTO runtime.role_actors VALUES (session_user, gen_random_uuid())",
    "INSERT INTO runtime.actor_keys (inner_pad, outer_pad) VALUES (repeat('a', 64)::bytea, repeat('a', 64)::bytea)",
    "SELECT runtime.check_actor_signature(gen_random_uuid(), 'x')",
    "SELECT runtime.actor_signature('a', 'b', gen_random_uuid(), 1)",
    "CREATE OR REPLACE FUNCTION runtime.actor_id() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'",
    "SET ROLE gristmill_operator",
    "SET SESSION AUTHORIZATION gristmill",
)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("attempt", OF_THE_OWNER)
@pytest.mark.parametrize(
    "group", ["gristmill_service", "gristmill_gateway", "gristmill_worker", "gristmill_dispatcher"]
)
def test_nobody_but_the_owner_reaches_keys_bindings_or_the_switch(login, group, attempt):
    """Neither SQL injection in a service nor a worker can read a key or turn strict mode off."""
    if (group, attempt) == ("gristmill_gateway", "SET ROLE gristmill_operator"):
        pytest.skip("its callers may be operators: tests/integration/gateway/callers/test_gateway_role.py")
    with pytest.raises(errors.InsufficientPrivilege):
        login(group).execute(attempt)


def test_a_search_path_of_the_callers_changes_nothing(service):
    """The function finds what it calls in pg_catalog, whatever schema comes first."""
    service.execute("CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'")
    service.execute("CREATE TEMP TABLE role_actors (role_name text, user_id uuid)")
    service.execute("SET search_path = pg_temp, pg_catalog")
    say(service, ADMIN)

    assert actor(service) == ADMIN


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_a_bound_login_is_its_user_whatever_it_says(request, login, mode):
    """One role per tenant: the login proves the user, so no signature is needed."""
    if mode == "strict":
        request.getfixturevalue("strict")
    tenant = login(binds=MALLORY)

    assert actor(tenant) == MALLORY
    for said in (ADMIN, "no id at all"):
        say(tenant, said, sign_actor(KEY, ADMIN, expires=at(SOON)))
        assert actor(tenant) == MALLORY


def test_a_signature_is_not_made_of_what_would_not_hold():
    """A short key or a time without a zone is an error of the caller, in one line."""
    with pytest.raises(ValueError, match="key must have 32 bytes or more, got 8"):
        sign_actor(b"password", ADMIN, expires=at(SOON))
    with pytest.raises(ValueError, match="expires must have a time zone"):
        sign_actor(KEY, ADMIN, expires=datetime(2030, 1, 1))  # noqa: DTZ001


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_turns_strict_mode_on_once_there_is_a_key(gristmill):
    """Without a key no service could act for anybody."""
    assert gristmill("security", "strict", "on") == (
        2,
        "",
        "gristmill: strict mode needs a key: `gristmill security new-key` makes one",
    )
    gristmill("security", "new-key")

    assert gristmill("security", "strict", "on")[:2] == (0, "strict mode is on\n")
    assert as_json(gristmill, "security", "status")["strict"] is True
    gristmill("security", "strict", "off")
    assert as_json(gristmill, "security", "status")["strict"] is False


def test_a_printed_key_and_a_printed_signature_hold(gristmill, service):
    """The key is for Python; a person can try the signature with psql."""
    code, key, _ = gristmill("security", "new-key")
    assert code == 0
    gristmill("security", "strict", "on")

    _, signature, _ = gristmill("security", "sign", str(ADMIN), "--for", "10m")
    say(service, ADMIN, signature.strip())
    assert actor(service) == ADMIN

    say(service, ADMIN, sign_actor(bytes.fromhex(key.strip()), ADMIN, expires=at(SOON)))
    assert actor(service) == ADMIN


def test_a_new_key_ends_the_old_ones_after_a_while(gristmill, psql):
    """Services that sign with an old key have this time to get the new one."""
    gristmill("security", "new-key")
    gristmill("security", "new-key", "--old-keys-for", "1h")

    old, new = as_json(gristmill, "security", "status")["keys"]
    assert (old["expires_at"] is not None, new["expires_at"]) == (True, None)

    gristmill("security", "remove-key", old["id"])
    assert [one["id"] for one in as_json(gristmill, "security", "status")["keys"]] == [new["id"]]
    assert "key" not in str(psql.execute("SELECT * FROM runtime.security").fetchall())


def test_a_login_is_bound_and_set_free(gristmill, login, database_url):
    """A login that sees all rows is refused: its binding would protect nothing."""
    tenant, worker = login(), login("gristmill_worker")
    name = tenant.info.user

    assert gristmill("security", "bind-role", name, str(ADMIN))[0] == 0
    assert actor(tenant) == ADMIN
    assert as_json(gristmill, "security", "status")["roles"] == [{"role": name, "user_id": str(ADMIN), "exists": True}]
    assert gristmill("security", "unbind-role", name)[0] == 0
    assert actor(tenant) is None
    for refused, said in ((worker.info.user, "sees the rows of everybody"), ("nobody-here", "must exist")):
        code, _, complaint = gristmill("security", "bind-role", refused, str(ADMIN))
        assert (code, said in complaint) == (2, True)


def test_a_signature_is_made_for_a_day_at_most(gristmill):
    """The database would refuse a longer one."""
    gristmill("security", "new-key")

    code, _, said = gristmill("security", "sign", str(ADMIN), "--for", "2d")

    assert (code, said) == (2, "gristmill: a signature is valid for 1 s to 86400 s, got 172800 s")


# ── row level security ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def people(psql):
    """Create an administrator, and a user with a profile and a job; return their ids."""
    ids = []
    for name, role in (("root", "ADMIN"), ("user", "USER")):
        [row] = psql.execute("INSERT INTO auth.users (email) VALUES (%s) RETURNING id", [f"{name}@example.test"])
        psql.execute("UPDATE operations.profiles SET role = %s WHERE id = %s", [role, row["id"]])
        ids.append(row["id"])
    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('theirs', %s)", [ids[1]])
    return ids


STATEMENTS = (
    "SELECT count(*) FROM operations.system_settings",
    "SELECT operations.is_admin()",
    "UPDATE operations.profiles SET role = 'ADMIN'",
    "SELECT count(*) FROM scoring.profiles",
    "SELECT count(*) FROM runtime.transitions",
    "INSERT INTO scoring.profiles (name) VALUES ('mine')",
    "SELECT operations.enqueue_analytics(gen_random_uuid())",
    "SELECT runtime.cancel(gen_random_uuid())",
    "SELECT operations.delete_project(id) FROM operations.projects",
)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_injected_statement_speaks_for_no_administrator(psql, people, service, statement):
    """It runs in the session of a user who signed and names another user; each try is refused."""
    admin, user = people
    psql.execute("INSERT INTO operations.projects (name) VALUES ('p')")
    psql.execute("INSERT INTO operations.system_settings (key, value) VALUES ('ai_provider', 'offline')")
    psql.execute("SELECT scoring.enqueue_score(id, 'Judge.') FROM scoring.profiles")
    say(service, user, fair(user=user))
    assert service.execute("SELECT operations.is_admin()").fetchone() == (False,)

    service.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(admin)])

    with pytest.raises(errors.InvalidAuthorizationSpecification, match="is not one of user"):
        service.execute(statement)


@pytest.mark.usefixtures("strict")
def test_a_signed_user_sees_and_makes_rows_of_their_own(psql, people, service):
    """In strict mode nothing else changes: defaults, policies and doors call the same function."""
    _, user = people
    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('another''s', gen_random_uuid())")
    say(service, user, fair(user=user))

    [(profile,)] = service.execute("SELECT id FROM scoring.profiles").fetchall()
    [(job,)] = service.execute("SELECT scoring.enqueue_score(%s, 'Judge.')", [profile]).fetchall()

    assert service.execute("SELECT owner_id FROM scoring.scoring_jobs").fetchall() == [(user,)]
    assert service.execute("SELECT runtime.cancel(%s)", [job]).fetchone() == (True,)
    assert service.execute("SELECT change_action FROM runtime.transitions ORDER BY version_to").fetchall() == [
        ("enqueue",),
        ("cancel",),
    ]


def test_a_bound_login_sees_its_own_rows_only(people, psql, login):
    """One role per tenant, which sets no actor."""
    _, user = people
    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('another''s', gen_random_uuid())")
    tenant = login(binds=user)

    say(tenant, people[0])

    assert tenant.execute("SELECT name FROM scoring.profiles").fetchall() == [("theirs",)]
    assert tenant.execute("SELECT operations.is_admin()").fetchone() == (False,)


def test_where_nothing_is_verified_nothing_is_looked_up(psql, service, gristmill):
    """Defaults call the plain function for every new row, also after the last binding or key is gone."""
    kind = "SELECT prosecdef FROM pg_proc WHERE oid = 'runtime.actor_id()'::regprocedure"
    psql.execute("DELETE FROM runtime.security")
    assert psql.execute(kind).fetchall() == [{"prosecdef": False}]

    name = service.info.user
    for on, off in (
        (("strict", "on"), ("strict", "off")),
        (("bind-role", name, str(ADMIN)), ("unbind-role", name)),
    ):
        gristmill("security", "new-key")
        gristmill("security", *on)
        assert psql.execute(kind).fetchall() == [{"prosecdef": True}]
        gristmill("security", *off)
        assert psql.execute(kind).fetchall() == [{"prosecdef": False}]
    public = "SELECT has_function_privilege('public', 'runtime.actor_id()', 'EXECUTE') AS may"
    assert psql.execute(public).fetchall() == [{"may": False}]
