"""Jobs of two tenants behind the gateway, and a reader of streams."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

CANCEL = """UPDATE scoring.scoring_jobs SET status = 'cancelled', version = version + 1, completed_at = now()
             WHERE id = %s"""


class Tenants:
    """Two tenants with a profile and a project each, by which their jobs are theirs."""

    def __init__(self, psql: Any, first: UUID, second: UUID) -> None:
        self._psql = psql
        self.profile: dict[UUID, str] = {}
        self.project: dict[UUID, str] = {}
        for tenant in (first, second):
            psql.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s)", [tenant, f"{tenant}@example.test"])
            psql.execute("UPDATE operations.profiles SET role = 'USER' WHERE id = %s", [tenant])
            with psql.transaction():
                psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant)])
                made = psql.execute("INSERT INTO scoring.profiles (name) VALUES ('somebody') RETURNING id").fetchone()
                self.profile[tenant] = str(made["id"])
            made = psql.execute(
                'INSERT INTO operations.projects (name, "ownerId") VALUES (%s, %s) RETURNING id', [str(tenant), tenant]
            ).fetchone()
            self.project[tenant] = str(made["id"])
        self.first, self.second = first, second

    def score(self, tenant: UUID | None = None, *, prompt: str = "Judge.", **options: Any) -> dict[str, Any]:
        """Return the request for a job of a tenant, by default the first."""
        payload = {"profile_id": self.profile[tenant or self.first], "prompt": prompt}
        return {"stage": "scoring.score", "payload": payload, **options}

    def enqueue(self, tenant: UUID | None = None, count: int = 1) -> list[UUID]:
        """Enqueue jobs of a tenant in SQL, one transaction each."""
        tenant, made = tenant or self.first, []
        for _ in range(count):
            with self._psql.transaction():
                self._psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant)])
                row = self._psql.execute(
                    "SELECT scoring.enqueue_score(%s, 'Judge.') AS id", [self.profile[tenant]]
                ).fetchone()
                made.append(row["id"])
        return made

    def align(self, tenant: UUID | None = None) -> UUID:
        """Enqueue a job about a tenant's project."""
        tenant = tenant or self.first
        with self._psql.transaction():
            self._psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant)])
            row = self._psql.execute(
                "SELECT operations.enqueue_analytics(%s, 'TASK') AS id", [self.project[tenant]]
            ).fetchone()
        found: UUID = row["id"]
        return found

    def cancel(self, job_id: UUID | str) -> None:
        """End a job."""
        self._psql.execute("SELECT runtime.cancel(%s)", [job_id])


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream. ``id`` alone is a position."""

    id: str | None
    name: str | None
    data: Any


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events of a stream, and positions without data."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            if name and not line.startswith(":"):
                fields[name] = value
        else:
            if "id" in fields or "data" in fields:
                data = json.loads(fields["data"]) if "data" in fields else None
                yield Event(fields.get("id"), fields.get("event"), data)
            fields = {}
