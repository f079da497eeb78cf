"""Make the proving tables with the migration helper that every domain's revision uses."""

from typing import cast

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, MetaData, Table, text
from sqlalchemy.schema import CreateTable

from migrations.kernel.v4 import JobTable, Step, Wait, attach_gate, attach_lifecycle
from migrations.kernel.v5 import open_to_sql
from models.lifecycle import Job
from tests.support.proving.models import SCHEMA, KeyedJob, PlainJob, TwoStepJob, WaitingJob

# As of the registry; tests/integration/runtime/test_sql_door.py compares both.
PLAIN_DOOR = {
    "fields": [
        {"name": "act", "column": "act", "type": ["string"], "default": "complete"},
        {"name": "seconds", "column": "seconds", "type": ["number"], "default": 0.0},
        {"name": "key", "column": "key", "type": ["string"], "default": ""},
    ],
    "options": {"due_at": "due_at"},
    "results": {"result": "result"},
}

MODELS: tuple[type[Job], ...] = (PlainJob, KeyedJob, TwoStepJob, WaitingJob)


def create(connection: Connection) -> None:
    """Create the proving schema with its job tables."""
    connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    with Operations.context(MigrationContext.configure(connection)):
        for model in MODELS:
            _create_table(connection, model)
            attach_lifecycle(_job_table(model))
        attach_gate(_job_table(KeyedJob), "act", in_use=False)
        attach_gate(_job_table(TwoStepJob), "key", in_use=False)
        open_to_sql("proving.plain", PLAIN_DOOR)
    # `runtime.jobs` reads every job table with the rights of the caller.
    connection.execute(text(f"GRANT USAGE ON SCHEMA {SCHEMA} TO gristmill_service, gristmill_worker"))
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO gristmill_service, gristmill_worker"))


def _create_table(connection: Connection, model: type[Job]) -> None:
    table = cast("Table", model.__table__).to_metadata(MetaData())
    for index in tuple(table.indexes):  # the helper makes the kernel's indexes with their conditions
        table.indexes.remove(index)
    table.c.status.server_default = None
    connection.execute(CreateTable(table))
    initial = model.__lifecycle__.initial
    connection.execute(text(f"ALTER TABLE {table} ALTER status SET DEFAULT '{initial}'"))
    connection.execute(text(f"ALTER TABLE {table} SET (fillfactor = 50)"))


def _job_table(model: type[Job]) -> JobTable:
    lifecycle = model.__lifecycle__
    return JobTable(
        schema=SCHEMA,
        table=model.__tablename__,
        steps=[Step(stage=s.stage, ready=s.ready, running=s.running, done=s.done) for s in lifecycle.steps],
        limit_column="key" if model is KeyedJob else None,
        waits=[
            Wait(state=w.state, waits_for=w.waits_for, decides=w.decides, expires=w.expires, lasts=w.lasts)
            for w in lifecycle.waits
        ],
        ends={end.state: end.counts_as for end in lifecycle.ends},
        also=lifecycle.also,
        shown_as=lifecycle.shown_as,
        may_decide="j.owner_id = runtime.actor_id()",
    )
