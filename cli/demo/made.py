"""What demonstrations have left in the database, remembered in the data folder, so that exactly that can be removed."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from uuid import UUID

from local.data_dir import write_private
from workers.runtime.database import Raw
from workers.runtime.refusals import Failed

FILE = "demo.json"


@dataclass(slots=True)
class Made:
    """The ids of what was made; written down at each addition, so that an interrupted demonstration is known too."""

    path: Path
    projects: list[str] = field(default_factory=list)
    assessments: list[str] = field(default_factory=list)
    profiles: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, data_dir: Path) -> Self:
        """Return what earlier demonstrations of this data folder have left."""
        path = data_dir.resolve() / FILE
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, **{name: [str(UUID(id_)) for id_ in ids] for name, ids in known.items()})
        except FileNotFoundError:
            return cls(path)
        except (ValueError, TypeError, AttributeError):
            raise Failed(f"{path} does not hold what demonstrations have made: mend it, or delete it") from None

    def add(self, kind: str, ids: Iterable[UUID]) -> None:
        """Remember more of ``kind``: projects, assessments, profiles or jobs."""
        getattr(self, kind).extend(map(str, ids))
        told = asdict(self)
        del told["path"]
        write_private(self.path, json.dumps(told) + "\n")

    def __bool__(self) -> bool:
        return bool(self.projects or self.assessments or self.profiles or self.jobs)


async def remove(conn: Raw, made: Made) -> dict[str, int]:
    """Delete all of it in one transaction, with what belongs to it, and forget it; return how many of each were there.

    Jobs that still run end by it. The history of the jobs stays.
    """
    ids = {"projects": made.projects, "assessments": made.assessments, "profiles": made.profiles, "jobs": made.jobs}
    async with conn.transaction():
        removed = {}
        for what, statement in _DELETE.items():
            cursor = await conn.execute(statement, {"ids": ids[what], "jobs": made.jobs})
            removed[what] = cursor.rowcount
        await conn.execute("DELETE FROM scoring.answers WHERE job_id = ANY (%(jobs)s::uuid[])", {"jobs": made.jobs})
    made.path.unlink(missing_ok=True)
    return removed


# Jobs first: those of profiles that were there before the demonstration have only this way.
_DELETE = {
    "jobs": "DELETE FROM scoring.scoring_jobs WHERE id = ANY (%(ids)s::uuid[])",
    "profiles": "DELETE FROM scoring.profiles WHERE id = ANY (%(ids)s::uuid[])",
    "assessments": "DELETE FROM assessments.assessment_states WHERE id = ANY (%(ids)s::uuid[])",
    "projects": "DELETE FROM operations.projects WHERE id = ANY (%(ids)s::uuid[])",
}
