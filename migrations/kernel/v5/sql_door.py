"""Open a stage to ``runtime.enqueue``. Used by revisions only, and imports nothing from ``models``."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

_WRITE = sa.text("UPDATE runtime.stages SET sql_door = CAST(:door AS jsonb) WHERE name = :stage")


def open_to_sql(stage: str, door: Mapping[str, Any]) -> None:
    """Let ``runtime.enqueue`` accept ``stage``. ``door`` is the ``sql_door`` of the stage in the registry, frozen.

    Members of ``gristmill_service`` need the right to insert the columns of its fields.
    """
    op.get_bind().execute(_WRITE, {"stage": stage, "door": json.dumps(door)})


def close_to_sql(stage: str) -> None:
    """Undo :func:`open_to_sql`."""
    op.get_bind().execute(_WRITE, {"stage": stage, "door": None})
