"""Look up what a person names: stages in the database, job tables in this release."""

from models import list_mapped
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.handler.registry import UnknownStageError, discover
from workers.runtime.store.read import list_stage_names
from workers.runtime.store.tables import job_table


async def check_stage(conn: Raw, stage: str | None) -> None:
    """Raise UnknownStageError if the database does not know ``stage``."""
    if stage is not None and stage not in (known := await list_stage_names(conn)):
        raise UnknownStageError(stage, known)


def job_models() -> dict[str, type[Job]]:
    """Return every job table's model by the name that ``runtime.jobs`` gives the table."""
    discover()
    return {job_table(model).label: model for model in list_mapped(Job)}
