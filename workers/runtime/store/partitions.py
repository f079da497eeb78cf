"""The months of ``runtime.transitions`` and ``llm.calls``: make the next ones, drop those past their retention."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session


def make_and_drop_partitions(session: Session, *, ahead: int, retention: timedelta) -> tuple[int, list[str]]:
    """Make and drop partitions; return the number of made ones and the names of dropped ones."""
    made, dropped = 0, list[str]()
    for what in ("runtime.{}_transition_partitions", "llm.{}_call_partitions"):
        made += session.scalar(text(f"SELECT {what.format('ensure')}(:ahead)"), {"ahead": ahead}) or 0
        dropped += session.scalar(text(f"SELECT {what.format('drop')}(:age)"), {"age": retention}) or []
    return made, dropped
