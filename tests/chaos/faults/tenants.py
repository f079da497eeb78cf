"""Malicious tenants: SQL in the role of a service, while all other processes work."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from tests.chaos.arena import Arena
from tests.chaos.faults import fault

ROUNDS = 5
OWN_JOBS = 20

# Each of these must be refused, for every row. Any login may take the advisory lock. The tenant holds it all the time,
# and it must stop nobody.
ATTACKS = (
    "UPDATE scoring.scoring_jobs SET dispatched_at = 'infinity'",
    "UPDATE scoring.scoring_jobs SET status = 'processing', version = version + 1",
    "UPDATE scoring.scoring_jobs SET retry_count = 0, max_retries = 5",
    "UPDATE scoring.scoring_jobs SET parsed_score = '{}', completed_at = now() WHERE completed_at IS NOT NULL",
    "DELETE FROM scoring.scoring_jobs",
    "INSERT INTO scoring.scoring_jobs (id, profile_id, prompt) SELECT id, profile_id, 'x' FROM scoring.scoring_jobs",
    "INSERT INTO scoring.scoring_jobs (profile_id, prompt, created_at) VALUES (%(stranger)s, 'x', 'infinity')",
    "SELECT scoring.enqueue_score((SELECT id FROM scoring.profiles LIMIT 1), 'x', p_due_at => 'infinity')",
    "SELECT scoring.enqueue_score(%(stranger)s, 'x')",
    "UPDATE runtime.dispatcher SET leader = 'me'",
    "UPDATE runtime.workers SET heartbeat_at = 'infinity'",
    "UPDATE runtime.stages SET paused_at = now()",
    "DELETE FROM runtime.transitions",
    "SELECT runtime.drop_transition_partitions('0 days')",
    """CREATE TEMP TABLE u (id uuid, email text);
       CREATE TRIGGER t AFTER UPDATE ON u REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
       FOR EACH STATEMENT EXECUTE FUNCTION scoring.guard_scoring_jobs_update()""",
    "TRUNCATE scoring.scoring_jobs",
    "SELECT id FROM scoring.scoring_jobs FOR UPDATE",
)
# All tables: a lock on one of them would stop everybody.
TABLES = """
    SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')
       AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"""
TABLE_ATTACKS = (
    "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
    "LOCK TABLE {} IN SHARE MODE",
    "DELETE FROM {}",
    "TRUNCATE {}",
)
OLD_LEADER_LOCK = 0x6772_6973_7401


@fault()
def tenant_means_harm(arena: Arena) -> None:
    """A tenant tries to forge tickets, times and history and to take locks, in its own SQL:

    every attempt is refused; its own valid jobs and all other jobs continue.
    """
    with _tenant(arena) as (tenant, profile):
        tenant.execute("SELECT pg_advisory_lock(%s)", [OLD_LEADER_LOCK])
        honest = [
            tenant.execute("SELECT scoring.enqueue_score(%s, %s)", [profile, f"Judge {n}."]).fetchall()[0][0]
            for n in range(OWN_JOBS)
        ]
        unwanted = tenant.execute("SELECT scoring.enqueue_score(%s, 'Not this.')", [profile]).fetchall()[0][0]
        tenant.execute("SELECT runtime.cancel(%s, 'changed my mind')", [unwanted])
        stranger = arena.workload.profiles[0]
        attacks = ATTACKS + tuple(how.format(name) for (name,) in arena.ask(TABLES) for how in TABLE_ATTACKS)
        for _ in range(ROUNDS):
            for attack in attacks:
                arena.promise(_refused(tenant, attack, stranger), f"not refused: {attack}")
            tenant.execute("SELECT pg_notify('gristmill_fence', gen_random_uuid() || ' ' || %s)", [honest[0]])
            tenant.execute("NOTIFY gristmill_work, 'nonsense'")
            arena.rest(0.2)
        arena.wait(lambda: _all_ended(arena, honest), "the tenant's own jobs end", seconds=arena.granted(60.0))
    seen = arena.ask("SELECT count(*) FROM runtime.transitions WHERE job_id = ANY (%s) AND version_to = 1", honest)
    arena.promise(seen == [(OWN_JOBS,)], f"{seen} of {OWN_JOBS} jobs have a history")


def _refused(tenant: "psycopg.Connection[tuple[uuid.UUID]]", attack: str, stranger: uuid.UUID) -> bool:
    """Return whether Postgres refuses the statement, by a missing right or by a rule."""
    try:
        with tenant.transaction():
            if "%(" in attack:
                tenant.execute(attack.encode(), {"stranger": stranger})
            else:
                tenant.execute(attack.encode())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation):
        return True
    return False


def _all_ended(arena: Arena, jobs: "list[uuid.UUID]") -> bool:
    ((ended,),) = arena.ask("SELECT count(completed_at) FROM scoring.scoring_jobs WHERE id = ANY (%s)", jobs)
    return int(ended) == len(jobs)


@contextmanager
def _tenant(arena: Arena) -> "Iterator[tuple[psycopg.Connection[tuple[uuid.UUID]], uuid.UUID]]":
    """Log in as a member of ``gristmill_service`` for a user with one profile; drop the login afterwards."""
    login, password, user = f"tenant_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex, uuid.uuid4()
    with psycopg.connect(arena.system.database_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE gristmill_service").format(
                sql.Identifier(login), sql.Literal(password)
            )
        )
        with psycopg.connect(arena.system.database_url, user=login, password=password, autocommit=True) as tenant:
            tenant.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(user)])
            profile = tenant.execute("INSERT INTO scoring.profiles (name) VALUES ('mine') RETURNING id").fetchall()
            yield tenant, profile[0][0]
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))
