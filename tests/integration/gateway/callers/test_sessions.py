"""What the database allows a caller of the gateway, with routes that check nothing and run any statement.

So each of these tests removes every check of the door; what is refused here is refused by Postgres.
"""

import uuid

import pytest

from tests.support.callers import add_user, bearer, make_key
from workers.runtime.actor_signature import new_key, pads

DOORS = ("/sql", "/session")


@pytest.fixture
async def tenants(psql, database):
    """Two tenants, each with a key that allows all that a user's key can, a profile and a job."""
    found = {}
    for name in ("alice", "bob"):
        user = add_user(psql, f"{name}@example.test")
        with psql.transaction():
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])
            profile = psql.execute("INSERT INTO scoring.profiles (name) VALUES (%s) RETURNING id", [name]).fetchone()[
                "id"
            ]
            job = psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.') AS id", [profile]).fetchone()["id"]
        scopes = ("jobs:read", "jobs:write", "scoring", "operations", "assessments", "callbacks")
        made = await make_key(database, name, *scopes, acts_for=user)
        found[name] = {"user": user, "profile": profile, "job": job, "key": made.secret}
    return found


async def run(client, secret: str, statement: str, door: str = "/sql"):
    return await client.post(door, content=statement, headers=bearer(secret))


@pytest.mark.parametrize("door", DOORS)
async def test_the_job_of_another_tenant_is_like_a_missing_one(client, tenants, door):
    """By its id, in the view of all jobs, in its table and in the history; nobody else's row is visible."""
    alice, bob = tenants["alice"], tenants["bob"]
    for table, column in (
        ("runtime.jobs", "id"),
        ("scoring.scoring_jobs", "id"),
        ("runtime.transitions", "job_id"),
        ("scoring.profiles", "id"),
    ):
        wanted = {who: owner["profile" if table.endswith("profiles") else "job"] for who, owner in tenants.items()}
        for number, found in ((wanted["alice"], 1), (wanted["bob"], 0), (uuid.uuid4(), 0)):
            answer = await run(client, alice["key"], f"SELECT {column} FROM {table} WHERE {column} = '{number}'", door)
            assert (answer.status_code, len(answer.json())) == (200, found), table

    cancelled = [
        (await run(client, alice["key"], f"SELECT runtime.cancel('{job}', 'x')", door)).json()
        for job in (bob["job"], uuid.uuid4())
    ]
    assert cancelled == [[["False"]], [["False"]]]


REFUSED = (
    "UPDATE runtime.stages SET paused_at = now()",
    "INSERT INTO runtime.schedules (name) VALUES ('a')",
    "SELECT name FROM runtime.schedules",
    "SELECT name FROM runtime.api_keys",
    "UPDATE runtime.api_keys SET revoked_at = now()",
    "SELECT * FROM runtime.authenticate_keys('{}')",
    "SELECT * FROM runtime.roles_of_users('{}')",
    "SELECT runtime.sign_actor(gen_random_uuid(), 600)",
    "TABLE runtime.actor_keys",
    "TABLE runtime.security",
    "TABLE runtime.approval_tokens",
    "TABLE runtime.dead_messages",
    "TABLE llm.providers",
    "TABLE llm.calls",
    "TABLE llm.budgets",
    "SELECT email FROM auth.users",
    "INSERT INTO operations.system_settings (key, value) VALUES ('ai_provider', 'offline')",
    "UPDATE scoring.scoring_jobs SET prompt = 'x'",
    "DELETE FROM scoring.scoring_jobs",
    "LOCK TABLE scoring.scoring_jobs IN EXCLUSIVE MODE",
    "CREATE TABLE runtime.mine ()",
    "CREATE ROLE somebody",
    "SET session_replication_role = replica",
)


@pytest.mark.parametrize("statement", REFUSED)
async def test_a_tenants_key_reaches_nothing_of_operators(client, tenants, statement):
    """Other scopes of its key make no difference: the role in the database decides."""
    answer = await run(client, tenants["alice"]["key"], statement)

    assert answer.status_code == 403, answer.text
    assert answer.json()["type"] == "/problems/forbidden"


async def test_settings_and_other_users_are_empty_for_a_tenant(client, tenants):
    """Row level security shows no row; the answer is not an error."""
    for statement in ("TABLE operations.system_settings", "SELECT id FROM operations.profiles WHERE email LIKE 'bob%'"):
        assert (await run(client, tenants["alice"]["key"], statement)).json() == []


async def test_a_statement_that_drops_the_role_has_no_rights(client, tenants):
    """The gateway's login reads no data by itself, and names no role that has more rights."""
    for injected in ("RESET ROLE", "SET ROLE gristmill_gateway"):
        answer = await run(client, tenants["alice"]["key"], f"{injected}; SELECT name FROM scoring.profiles")
        assert answer.status_code == 403
    for role in ("gristmill_worker", "gristmill_dispatcher", "gristmill"):
        assert (await run(client, tenants["alice"]["key"], f"RESET ROLE; SET ROLE {role}")).status_code == 403


async def test_an_operators_key_sees_all_rows_and_pauses_stages(client, tenants, database):
    """It is an operator in the database, too."""
    ops = (await make_key(database, "ops", "operate")).secret

    assert len((await run(client, ops, "SELECT id FROM scoring.scoring_jobs")).json()) == 2
    assert (await run(client, ops, "UPDATE runtime.stages SET paused_at = now()")).status_code == 200
    assert (await run(client, ops, "SELECT key_hash FROM runtime.api_keys")).status_code == 403


@pytest.mark.parametrize("scope", ["operate:read", "scoring:read"])
async def test_a_key_that_only_reads_cannot_write(client, tenants, database, psql, scope):
    """Its transactions are read-only, whatever the route does."""
    user = None if scope.startswith("operate") else tenants["alice"]["user"]
    reader = (await make_key(database, "reader", scope, acts_for=user)).secret

    for door in DOORS:
        answer = await run(client, reader, "UPDATE scoring.profiles SET name = 'x' RETURNING id", door)
        assert (answer.status_code, answer.json()["detail"]) == (403, "the scopes of the caller allow reading only")
    answer = await run(client, reader, "SET transaction_read_only = off; UPDATE scoring.profiles SET name = 'x'")
    assert answer.status_code == 500
    assert {row["name"] for row in psql.execute("SELECT name FROM scoring.profiles")} == {"alice", "bob"}
    assert (await run(client, reader, "SELECT id FROM scoring.profiles")).status_code == 200


async def test_nothing_of_a_caller_stays_in_the_connection(app, client, tenants, database):
    """The next request of the pool's connection has its own role and user, or none."""
    ops = (await make_key(database, "ops", "operate")).secret
    who = "SELECT current_user, current_setting('gristmill.user_id'), current_setting('gristmill.changed_by')"
    alice = [["gristmill_service", str(tenants["alice"]["user"]), "key:alice"]]

    for door in DOORS * 5:
        assert (await run(client, tenants["alice"]["key"], who, door)).json() == alice
        assert (await run(client, ops, who, door)).json() == [["gristmill_operator", "", "key:ops"]]
        assert (await run(client, ops, "SELECT 1/0", door)).status_code in {422, 500}
        async with app.state.services.database.transaction() as conn:
            row = await (await conn.execute(who.replace("current_user", "current_user = session_user"))).fetchone()
        assert row == (True, "", "gateway")


async def test_history_says_which_key_did_it_in_which_request(client, tenants, psql):
    """With the gateway's login before the name of the key, which no other service can have."""
    alice = tenants["alice"]
    request = {**bearer(alice["key"]), "User-Agent": "curl/8 \x01"}

    await client.post("/sql", content=f"SELECT runtime.cancel('{alice['job']}', 'no need')", headers=request)

    [row] = psql.execute(
        """SELECT changed_by, change_reason, host(ip_address) AS ip, user_agent, context -> 'request_id' AS request
             FROM runtime.transitions WHERE job_id = %s AND change_action = 'cancel'""",
        [alice["job"]],
    ).fetchall()
    assert uuid.UUID(row.pop("request"))
    assert row == {
        "changed_by": "gristmill_gateway_login as key:alice",
        "change_reason": "no need",
        "ip": "192.0.2.7",
        "user_agent": "curl/8 \N{REPLACEMENT CHARACTER}",
    }


def test_another_service_cannot_claim_to_be_a_key(psql, tenants):
    """Whatever it says, history names its own role first, and never the gateway's login."""
    job = tenants["alice"]["job"]
    with psql.transaction():
        psql.execute("SET LOCAL ROLE gristmill_service")
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenants["alice"]["user"])])
        psql.execute("SELECT set_config('gristmill.changed_by', 'key:alice', true)")
        psql.execute("SELECT runtime.cancel(%s, 'x')", [job])

    row = psql.execute(
        "SELECT changed_by FROM runtime.transitions WHERE job_id = %s AND change_action = 'cancel'", [job]
    ).fetchone()
    assert row == {"changed_by": "gristmill_service as key:alice"}


@pytest.fixture
def strict(psql):
    """Strict mode with one key. No process of the test has that key."""
    psql.execute("INSERT INTO runtime.actor_keys (inner_pad, outer_pad) VALUES (%s, %s)", list(pads(new_key())))
    psql.execute("INSERT INTO runtime.security (id, strict, changed_by) VALUES (1, true, 'test')")


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("door", DOORS)
async def test_strict_mode_believes_the_gateway_by_the_key_of_its_caller(client, tenants, door):
    """The database signs the user of a valid key; the gateway has no key to sign with."""
    answer = await run(client, tenants["alice"]["key"], "SELECT id FROM scoring.profiles", door)

    assert answer.json() == [[str(tenants["alice"]["profile"])]]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("door", DOORS)
async def test_in_strict_mode_an_injected_statement_cannot_become_another_user(client, tenants, door):
    """The signature is of the caller's user."""
    bob = tenants["bob"]["user"]
    statement = f"""WITH said AS MATERIALIZED (SELECT set_config('gristmill.user_id', '{bob}', true) AS id)
                    SELECT said.id, runtime.actor_id() FROM said"""

    answer = await run(client, tenants["alice"]["key"], statement, door)

    assert answer.status_code in {500, 502}
    assert str(bob) not in answer.text.replace(statement, "")


async def test_without_the_role_of_operators_the_database_refuses_their_keys(client, psql, database):
    """An administrator can take it from the gateway; keys of users still work."""
    user = add_user(psql, "ada@example.test")
    ops = (await make_key(database, "ops", "operate")).secret
    key = (await make_key(database, "ada", "jobs:read", acts_for=user)).secret
    psql.execute("REVOKE gristmill_operator FROM gristmill_gateway")
    try:
        assert (await run(client, ops, "SELECT 1")).status_code == 403
        assert (await run(client, key, "SELECT 1")).status_code == 200
    finally:
        psql.execute("GRANT gristmill_operator TO gristmill_gateway WITH INHERIT FALSE, SET TRUE")
