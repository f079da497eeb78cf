"""Move the database's schema. The only room that runs the migrations, and that pays for importing Alembic."""

import logging
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError as AlembicError

import migrations
from cli.errors import WrongUsageError
from cli.revisions import CURRENT, Position, position_of, revisions
from workers.runtime.connections import connect

BASE, HEAD = "base", "head"


def position(database_url: str) -> Position:
    """Return where the database stands."""
    with connect(database_url, autocommit=True) as connection:
        try:
            row = connection.execute(CURRENT).fetchone()
        except psycopg.errors.UndefinedTable:
            row = None  # before its first migration
    return position_of(row[0] if row else None)


def move(database_url: str, to: str = HEAD) -> tuple[Position, Position]:
    """Migrate up or down to a revision; return where the database stood and where it stands.

    One process at a time migrates; others wait for it. A database that a newer release has migrated is left alone.
    Raises WrongUsageError for a revision that is not there.
    """
    known, before = revisions(), position(database_url)
    target = known[-1] if to == HEAD else to
    if target not in {BASE, *known}:
        raise WrongUsageError(f"revision {to!r} is not there; revisions: {', '.join(known)}, {HEAD}, {BASE}")
    if not before.known:
        if to == HEAD:
            return before, before
        raise WrongUsageError(f"database is at {before.current}, of a newer release: migrate it with that release")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the caller tells what was done
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["url"] = database_url
    try:
        (command.downgrade if _lies_below(target, before.current) else command.upgrade)(config, target)
    except AlembicError as error:
        raise WrongUsageError(str(error)) from None
    return before, position(database_url)


def _lies_below(target: str, current: str | None) -> bool:
    known = revisions()
    return current is not None and (target == BASE or known.index(target) < known.index(current))
