"""What demonstrations have left in the database, remembered in the data folder, so that exactly that can be removed."""

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

    def forget(self) -> None:
        """Note that nothing of it is left."""
        self.path.unlink(missing_ok=True)

    def __bool__(self) -> bool:
        return bool(self.projects or self.assessments or self.profiles or self.jobs)


async def remove(session: Transaction, made: Made, *, actor: Actor) -> dict[str, int]:
    """Delete all of it in one transaction, with what belongs to it; return how many of each were there.

    Jobs that still run end by it. The history of the jobs stays.
    """
    scored = await remove_profiles(session, _ids(made.profiles), job_ids=_ids(made.jobs), actor=actor)
    return {
        "jobs": scored.jobs,
        "profiles": scored.profiles,
        "assessments": await states.remove(session, _ids(made.assessments), actor=actor),
        "projects": await remove_all(session, _ids(made.projects), actor=actor),
    }


def _ids(told: Iterable[str]) -> list[UUID]:
    return [UUID(one) for one in told]
