"""Reservations that nobody will settle: those of processes and runs that are over count as paid, at their estimate."""

from uuid import UUID

from workers.runtime.database import Raw


async def orphan_calls_of(conn: Raw, worker_id: UUID) -> int:
    """Give up every reservation of a worker that has ended; return how many. Maintenance does it for dead ones."""
    row = await (await conn.execute("SELECT llm.orphan_calls(%(worker)s)", {"worker": worker_id})).fetchone()
    return row[0] if row else 0
