"""The ids of the rows that demonstrations created, stored in the data folder, so that they can be deleted later."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from uuid import UUID

from local.data_dir import write_private
from workers.assessment.store import states
from workers.operations.projects import remove_all
from workers.runtime.actor import Actor
from workers.runtime.database import Transaction
from workers.runtime.refusals import Failed
from workers.scoring.profiles import remove_profiles

FILE_NAME = "demo.json"


@dataclass(slots=True)
class CreatedIds:
    """The ids of created rows. Each addition is stored at once, so an interrupted demonstration can be deleted too."""

    path: Path
    projects: list[str] = field(default_factory=list)
    assessments: list[str] = field(default_factory=list)
    profiles: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, data_dir: Path) -> Self:
        """Return the ids that earlier demonstrations in this data folder have stored."""
        path = data_dir.resolve() / FILE_NAME
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, **{name: [str(UUID(id_)) for id_ in ids] for name, ids in stored.items()})
        except FileNotFoundError:
            return cls(path)
        except (ValueError, TypeError, AttributeError):
            raise Failed(f"{path} must hold the ids that demonstrations have created: repair or delete it") from None

    def add(self, kind: str, ids: Iterable[UUID]) -> None:
        """Store more ids of ``kind``: projects, assessments, profiles or jobs."""
        getattr(self, kind).extend(map(str, ids))
        ids_by_kind = asdict(self)
        del ids_by_kind["path"]
        write_private(self.path, json.dumps(ids_by_kind) + "\n")

    def delete_file(self) -> None:
        """Delete the stored ids, after their rows are deleted."""
        self.path.unlink(missing_ok=True)

    def __bool__(self) -> bool:
        return bool(self.projects or self.assessments or self.profiles or self.jobs)


async def delete_created(session: Transaction, created: CreatedIds, *, actor: Actor) -> dict[str, int]:
    """Delete all of these rows, and the rows that belong to them, in one transaction; return the counts by kind.

    Running jobs are ended. The history of the jobs stays.
    """
    scored = await remove_profiles(session, _uuids(created.profiles), job_ids=_uuids(created.jobs), actor=actor)
    return {
        "jobs": scored.jobs,
        "profiles": scored.profiles,
        "assessments": await states.remove(session, _uuids(created.assessments), actor=actor),
        "projects": await remove_all(session, _uuids(created.projects), actor=actor),
    }


def _uuids(ids: Iterable[str]) -> list[UUID]:
    return [UUID(one) for one in ids]
