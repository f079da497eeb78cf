"""The months of ``runtime.transitions``: make the next ones, drop those that are past their retention."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session


def keep_partitions(session: Session, *, ahead: int, retention: timedelta) -> tuple[int, list[str]]:
    """Return how many of the next months were made, and the names of those that were dropped."""
    made = session.scalar(text("SELECT runtime.ensure_transition_partitions(:ahead)"), {"ahead": ahead})
    dropped = session.scalar(text("SELECT runtime.drop_transition_partitions(:age)"), {"age": retention})
    return int(made or 0), list(dropped or [])
