"""A database for tests. It is emptied before each test, which is twenty times as fast as creating a new one."""

from collections.abc import Iterator

from alembic import command

from migrations.upgrade import BASE, HEAD, configured, domain_named, move
from models import every_table
from models.lifecycle import Job
from workers.runtime.connections import connect
from workers.runtime.handler.registry import registry
from workers.runtime.store.tables import JobTable, job_table

LIFECYCLE = """
    SELECT initial, terminal, transitions, array(SELECT jsonb_object_keys(waits)) FROM runtime.lifecycles
     WHERE table_name = %s"""
STAGES = "SELECT name, ready, running, done FROM runtime.stages WHERE table_name = %s"


DOORS = "SELECT name, sql_door FROM runtime.stages WHERE table_name = %s"


def empty_database(url: str) -> None:
    """Reset the database to its state after the migration: end all other connections, delete all rows of data."""
    with connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        admin.execute("SET session_replication_role = replica")  # so that foreign keys do not matter
        tables = admin.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
            "AND relnamespace::regnamespace::text NOT IN ('public', 'pg_catalog', 'information_schema') "
            "AND relname NOT IN ('lifecycles', 'stages', 'notice_takers')"
        ).fetchall()
        for (table,) in tables:
            admin.execute(f"DELETE FROM {table}".encode())
        admin.execute("UPDATE runtime.stages SET limit_at_most = NULL, paused_at = NULL, paused_by = NULL")


def check_domain(url: str, name: str) -> None:
    """Fail unless the revisions of the domain ``name`` match its models, and run down and up again.

    This deletes the rows of its tables.
    """
    domain = domain_named(name)
    move(url, f"{name}@{HEAD}")
    command.check(configured(url, domain))
    move(url, f"{name}@{BASE}")
    move(url, f"{name}@{HEAD}")
    wrong = [
        f"{job_table(model).label}: {problem}"
        for model in every_table(Job)
        if f"{model.__module__}.".startswith(f"{domain.package}.")
        for problem in _lifecycle_problems(url, job_table(model))
    ]
    assert not wrong, "; ".join(wrong)


def _lifecycle_problems(url: str, table: JobTable) -> Iterator[str]:
    """Yield the differences between the lifecycle in the database and the one of the model."""
    with connect(url) as connection:
        found = connection.execute(LIFECYCLE, (table.label,)).fetchone()
        stages = connection.execute(STAGES, (table.label,)).fetchall()
        doors = dict(connection.execute(DOORS, (table.label,)).fetchall())
    if found is None:
        yield "its revision does not call attach_lifecycle"
        return
    cycle = table.lifecycle
    enforced = [found[0], set(found[1]), {tuple(pair.split(">")) for pair in found[2]}, set(found[3])]
    declared = [cycle.initial, set(cycle.terminal), set(cycle.transitions), {wait.state for wait in cycle.waits}]
    for what, one, other in zip(("initial state", "ends", "transitions", "waits"), enforced, declared, strict=True):
        if one != other:
            yield f"{what} of the revision are {_format(one)}, of the model {_format(other)}"
    steps = {(step.stage, step.ready, step.running, step.done) for step in cycle.steps}
    if set(stages) != steps:
        yield f"steps of the revision are {_format(set(stages))}, of the model {_format(steps)}"
    for name, door in doors.items():
        if name in registry and registry[name].sql_door != door:
            yield f"stage {name!r} is open to SQL otherwise than its handler says: hand its sql_door to open_to_sql"


def _format(value: object) -> str:
    return repr(sorted(value)) if isinstance(value, set) else repr(value)
