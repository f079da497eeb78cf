"""The monthly partitions of ``runtime.transitions``: make the next ones, drop those past their retention."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session


def make_and_drop_partitions(session: Session, *, ahead: int, retention: timedelta) -> tuple[int, list[str]]:
    """Make and drop partitions; return the number of made ones and the names of dropped ones."""
    made = session.scalar(text("SELECT runtime.ensure_transition_partitions(:ahead)"), {"ahead": ahead})
    dropped = session.scalar(text("SELECT runtime.drop_transition_partitions(:age)"), {"age": retention})
    return int(made or 0), list(dropped or [])
