"""A table with many jobs of which few match: those that a list looks for are the oldest, behind all others."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tests.support.proving.models import PlainJob
from workers.runtime.database import Raw
from workers.runtime.store.lists import JobSearch, Wait
from workers.runtime.store.tables import job_table

TABLE = job_table(PlainJob).label
STAGE = "proving.plain"
OWNER, OTHER = UUID(int=0xA), UUID(int=0xB)
KEY = "wanted"
FINGERPRINT = "f" * 32
# How many jobs of each kind are wanted.
FEW = 60
KINDS = 8
AGE = timedelta(days=2)

# In the order of the enqueue: FEW of each wanted kind first, all others completed, half of them of another owner.
_FILL = f"""
    INSERT INTO {TABLE} (id, owner_id, status, version, dispatched_at, due_at, change_action, completed_at,
                         error_message, error_fingerprint, idempotency_key, key, created_at, updated_at)
    SELECT uuidv7(at - clock_timestamp()),
           CASE WHEN kind < {KINDS} THEN %(owner)s::uuid WHEN n %% 2 = 0 THEN %(other)s::uuid END,
           CASE WHEN kind IN (0, 1, 2, 3, 4) THEN 'pending' WHEN kind = 5 THEN 'processing' WHEN kind = 6 THEN 'failed'
                WHEN kind = 7 THEN 'cancelled' ELSE 'completed' END,
           3, CASE WHEN kind IN (4, 5) THEN now() END, CASE WHEN kind IN (1, 2, 3) THEN now() + interval '1 hour' END,
           CASE kind WHEN 1 THEN 'retry' WHEN 2 THEN 'snooze' END,
           CASE WHEN kind > 5 THEN now() END, CASE WHEN kind IN (1, 6) THEN 'no answer' END,
           CASE WHEN kind IN (1, 6) THEN '{FINGERPRINT}' END,
           CASE WHEN n <= 3 THEN '{KEY} ' || n WHEN kind < {KINDS} THEN NULL ELSE 'of ' || n END, 'k', at, at
      FROM (SELECT n, least((n - 1) / {FEW}, {KINDS}) AS kind,
                   now() - %(age)s + n * %(step)s::interval AS at
              FROM generate_series(1, %(rows)s) AS n) AS made"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One filter of the list, and how many jobs it finds."""

    name: str
    search: JobSearch
    found: int


async def fill(conn: Raw, rows: int) -> None:
    """Enqueue so many jobs, with the statistics of an empty table, and no guard that counts them one by one."""
    await conn.execute(f"ALTER TABLE {TABLE} SET (autovacuum_enabled = false)".encode())
    await conn.execute(f"ANALYZE {TABLE}".encode())
    async with conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = replica")
        step = AGE / (rows + 1)
        values = {"owner": OWNER, "other": OTHER, "rows": rows, "age": AGE, "step": step}
        await conn.execute(_FILL.encode(), values)
    await conn.execute("SELECT runtime.recount_jobs()")


def wanted(rows: int) -> list[Wanted]:
    """Return every filter, alone and with others, that finds jobs behind all others."""
    long_ago = datetime.now(UTC) - AGE + timedelta(seconds=1) + AGE / (rows + 1) * FEW * KINDS
    of = JobSearch(stage=STAGE)
    return [
        Wanted("stage", of, rows),
        *(Wanted(f"state {state}", _state(state), n * FEW) for state, n in _BY_STATE.items()),
        *(Wanted(f"wait {wait}", replace(of, wait=wait), FEW) for wait in _WAITS),
        Wanted("owner", replace(of, owner=OWNER), KINDS * FEW),
        Wanted("owner and state", replace(_state("failed"), owner=OWNER), FEW),
        Wanted("owner and wait", replace(of, wait="later", owner=OWNER), FEW),
        Wanted("key", replace(of, key=f"{KEY} 2"), 1),
        Wanted("owner and key", replace(of, key=f"{KEY} 2", owner=OWNER), 1),
        Wanted("error", replace(of, error=FINGERPRINT), 2 * FEW),
        Wanted("error and state", replace(_state("failed"), error=FINGERPRINT), FEW),
        Wanted("owner and error", replace(of, error=FINGERPRINT, owner=OWNER), 2 * FEW),
        Wanted("to", replace(of, until=long_ago), -1),
        Wanted("state and to", replace(_state("pending"), until=long_ago), 5 * FEW),
    ]


_BY_STATE = {"pending": 5, "processing": 1, "failed": 1, "cancelled": 1}
_WAITS: tuple[Wait, ...] = ("ready", "backing_off", "snoozed", "later", "dispatched")


def _state(state: str) -> JobSearch:
    return JobSearch(stage=STAGE, states=frozenset({(TABLE, state)}))
