"""Move the database's schema. The only room that runs the migrations, and that pays for importing Alembic."""

import ast
import inspect
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError as AlembicError
from psycopg import sql

import migrations
import models
from migrations.revisions import FIRST_FOR_DOMAINS, Position, domains, position_of, revisions
from models.domains import Domain, installed, problems
from workers.runtime.connections import connect
from workers.runtime.refusals import Failed, Refusal, printable
from workers.runtime.store.server import VERSION_TABLES, versions_statement

BASE, HEAD = "base", "head"
_DECLARATIONS = ("models/__init__.py", "models/base.py", "models/domains.py", "models/lifecycle.py")


@dataclass(frozen=True, slots=True)
class Move:
    """Where a history stood and where it stands: gristmill's own, or that of a domain."""

    domain: str | None
    before: Position
    after: Position


def position(database_url: str, domain: Domain | None = None) -> Position:
    """Return where the database stands in gristmill's own history, or in that of a domain."""
    own, standing = _standing(database_url)
    return position_of(standing.get(domain.name) if domain else own, domain)


def move(database_url: str, to: str = HEAD) -> list[Move]:
    """Migrate to the newest revisions, or one history to one revision; return what was looked at, gristmill's first.

    ``to`` is a revision of gristmill, or ``DOMAIN@REVISION``. Gristmill's own revisions run before those of domains.
    One process at a time migrates; others wait for it. A history that a newer release has migrated is left alone.
    Raises Refusal for a revision that is not there, Failed for one that fails: its file, line and reason.
    """
    _check_domains()
    name, _, target = to.rpartition("@")
    if name:
        return [_move(database_url, None, None), _move(database_url, domain_named(name), target)]
    if to != HEAD:
        _keep_kernel_of_domains(database_url, to)
    moves = [_move(database_url, None, to)]
    return moves + [_move(database_url, domain, HEAD) for domain in domains() if to == HEAD]


def domain_named(name: str) -> Domain:
    """Return an installed domain that has revisions; raise Refusal if there is none of that name."""
    found = {domain.name: domain for domain in domains()}
    if name not in found:
        raise Refusal(f"domain {name!r} is not installed; installed domains: {', '.join(found) or 'none'}")
    return found[name]


def configured(database_url: str, domain: Domain | None = None) -> Config:
    """Return the configuration of Alembic for gristmill's own history, or for that of a domain."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    if domain:
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", str(domain.versions).replace("%", "%%"))
        config.attributes["domain"] = domain
    config.attributes["url"] = database_url
    return config


def _move(database_url: str, domain: Domain | None, to: str | None) -> Move:
    """Move one history; None leaves it where it is."""
    known, before = revisions(domain), position(database_url, domain)
    if to is None:
        return Move(None, before, before)
    name = domain.name if domain else None
    target = known[-1] if to == HEAD else to
    if target not in {BASE, *known}:
        of = f" of domain {name!r}" if name else ""
        raise Refusal(f"revision {to!r}{of} is not there; revisions: {', '.join(known)}, {HEAD}, {BASE}")
    if not before.known:
        if to == HEAD:
            return Move(name, before, before)
        what = f"domain {name!r}" if name else "database"
        raise Refusal(f"{what} is at {before.current}, of a newer release: migrate it with that release")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the caller tells what was done
    config = configured(database_url, domain)
    try:
        (command.downgrade if _lies_below(target, before.current, known) else command.upgrade)(config, target)
    except AlembicError as error:
        raise Refusal(str(error)) from None
    except Exception as error:
        told = said(error)
        if told is None:
            raise
        raise Failed(told + _held_by(error, database_url)) from error
    return Move(name, before, position(database_url, domain))


def _standing(database_url: str) -> tuple[str | None, dict[str, str]]:
    """Return the revision of gristmill's own history and those of domains, by name."""
    with connect(database_url, autocommit=True) as connection:
        tables = [table for (table,) in connection.execute(VERSION_TABLES).fetchall()]
        found = dict(connection.execute(versions_statement(tables)).fetchall()) if tables else {}
    return found.pop("", None), found


def _check_domains() -> None:
    """Raise Failed if the models of a domain cannot be loaded, or claim what is another's."""
    domains()
    try:
        models.load_all()
    except Exception as error:
        told = said(error)
        if told is None:
            raise
        raise Failed(told) from error
    for place, reason in problems().items():
        raise Failed(f"{place}: {reason}")


def _keep_kernel_of_domains(database_url: str, to: str) -> None:
    """Raise Refusal if going down to ``to`` would take the kernel away from under a domain."""
    known = revisions()
    too_low = to == BASE or (to in known and known.index(to) < known.index(FIRST_FOR_DOMAINS))
    _, standing = _standing(database_url) if too_low else (None, {})
    for name, revision in standing.items():
        raise Refusal(
            f"domain {name!r} stands at {revision} and needs revision {FIRST_FOR_DOMAINS}: "
            f"migrate it down first with `gristmill migrate --to {name}@{BASE}`"
        )


def keep_history(database_url: str, days: int) -> None:
    """Write down how long history is kept, for whoever drops months; of a database at this release's head only."""
    with connect(database_url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO runtime.retention (transitions_days) VALUES (%s)
               ON CONFLICT (id) DO UPDATE SET transitions_days = excluded.transitions_days""",
            [days],
        )


@dataclass(frozen=True, slots=True)
class DroppedTable:
    """A job table that a migration would drop: how many jobs it has, and how many of them have not ended."""

    name: str
    jobs: int
    unfinished: int


def dropped_tables(database_url: str, to: str) -> list[DroppedTable]:
    """Return the job tables that a move to ``to`` would drop and that have jobs; none for a move upwards."""
    if not goes_down(database_url, to):
        return []
    domain, target = _target(to)
    names = _dropped_names(database_url, domain, str(position(database_url, domain).current), target)
    found = []
    with connect(database_url, autocommit=True) as connection:
        for name in names:
            counts = sql.SQL("SELECT count(*), count(*) FILTER (WHERE completed_at IS NULL) FROM {}")
            try:
                row = connection.execute(counts.format(sql.Identifier(*name.split(".")))).fetchone()
            except psycopg.errors.UndefinedTable:
                continue  # somebody dropped it already
            if row and row[0]:
                found.append(DroppedTable(name, *row))
    return found


def cancel_unfinished(database_url: str, tables: Sequence[DroppedTable]) -> None:
    """Cancel the unfinished jobs of tables that are about to be dropped, so that their histories have ends."""
    cancel = (
        "SELECT runtime.cancel(id, 'removed with its table by gristmill migrate') FROM {} WHERE completed_at IS NULL"
    )
    with connect(database_url) as connection:
        known = connection.execute("SELECT to_regprocedure('runtime.cancel(uuid, text)')").fetchone()
        if known is None or known[0] is None:
            return  # of an early revision
        for table in tables:
            connection.execute(sql.SQL(cancel).format(sql.Identifier(*table.name.split("."))))
        connection.commit()


def live_processes(database_url: str) -> list[str]:
    """Return the workers that show signs of life and the dispatcher that leads, by name."""
    question = """
        SELECT 'worker ' || name FROM runtime.workers WHERE heartbeat_at > now() - make_interval(secs => lease_seconds)
        UNION ALL SELECT 'dispatcher ' || coalesce(leader, '') FROM runtime.dispatcher WHERE expires_at > now()"""
    with connect(database_url, autocommit=True) as connection:
        try:
            return sorted(row[0] for row in connection.execute(question))
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return []  # of an early revision


def goes_down(database_url: str, to: str) -> bool:
    """Tell whether a move to ``to`` undoes revisions."""
    domain, target = _target(to)
    known, current = revisions(domain), position(database_url, domain).current
    return target in {BASE, *known} and current in known and _lies_below(target, current, known)


def _target(to: str) -> tuple[Domain | None, str]:
    """Return the domain that ``to`` names, None for gristmill's own history, and the revision."""
    name, _, target = to.rpartition("@")
    return (domain_named(name) if name else None), target


def _dropped_names(database_url: str, domain: Domain | None, current: str, to: str) -> list[str]:
    """Return the job tables that the downgrades from ``current`` to ``to`` detach. Each does so before it drops one."""
    undone = ScriptDirectory.from_config(configured(database_url, domain)).iterate_revisions(current, to)
    return [table for revision in undone for table in _detached(revision.module)]


def _detached(revision: ModuleType) -> list[str]:
    """Return the tables that a revision's downgrade hands to ``detach_lifecycle``, by name or out of a list."""
    tree = ast.parse(inspect.getsource(revision))
    [downgrade] = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "downgrade"]
    loops = {
        node.target.id: node.iter.id
        for node in ast.walk(downgrade)
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Name)
    }
    found: list[str] = []
    for node in ast.walk(downgrade):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "detach_lifecycle":
            names = [argument.id for argument in node.args if isinstance(argument, ast.Name)]
            for name in names:
                value = getattr(revision, loops.get(name, name))
                tables = value if isinstance(value, (tuple, list)) else [value]
                found += [f"{table.schema}.{table.table}" for table in tables]
    return found


def said(error: Exception) -> str | None:
    """Return the line of a revision or a model that failed, and why; None for an error of neither.

    What Postgres refuses in a revision is the revision's fault: "run `gristmill migrate`" would send its author round.
    """
    place = _place(error)
    if place is None:
        return None
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, psycopg.OperationalError) and cause.sqlstate is None:
        return None  # Postgres went away meanwhile
    if not isinstance(cause, psycopg.Error):
        return f"{place}: {type(cause).__name__}: {getattr(cause, 'msg', None) or cause}"
    remedy = ""
    if isinstance(cause, psycopg.errors.InvalidSchemaName):
        remedy = '; a revision creates its schema first: op.execute("CREATE SCHEMA …")'
    hint = f" ({cause.diag.message_hint})" if cause.diag.message_hint else ""
    return f"{place}: Postgres refused: {cause.diag.message_primary or cause}{hint}{remedy}"


# What Postgres raises if a view or a column of a table's row type keeps a table from being changed.
_DEPENDED_UPON = (
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidTableDefinition,
)
# Temporary views on tables of ours, and temporary tables with a column of a row type: whose, and in which session.
_TEMPORARY = r"""
    SELECT DISTINCT c.relname, pg_get_userbyid(c.relowner), pg_stat_get_backend_pid(substr(n.nspname, 9)::int)
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname ~ '^pg_temp_[0-9]+$' AND (
             EXISTS (SELECT FROM pg_rewrite AS r
                       JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                                          AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
                      WHERE r.ev_class = c.oid)
          OR EXISTS (SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                       LEFT JOIN pg_type AS e ON e.oid = t.typelem
                      WHERE a.attrelid = c.oid AND (t.typtype = 'c' OR e.typtype = 'c')))
     ORDER BY 1 LIMIT 5"""


def _held_by(error: Exception, database_url: str) -> str:
    """Return who holds what keeps a table from being changed, and how to end it; empty where nobody does.

    Every role may make temporary objects in a database, unless its owner takes that right from PUBLIC.
    """
    if not isinstance(getattr(error, "orig", None) or error, _DEPENDED_UPON):
        return ""
    with connect(database_url, autocommit=True) as connection:
        found = connection.execute(_TEMPORARY).fetchall()
    if not found:
        return ""
    held = ", ".join(f"{printable(name)} of role {printable(role)}, process {pid}" for name, role, pid in found)
    return f"; temporary objects that depend on tables: {held}: end those sessions with pg_terminate_backend"


def _place(error: Exception) -> str | None:
    """Return the deepest line of a revision or a model that ``error`` passed."""
    home = Path(migrations.__file__).parents[1]
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    for name, line in reversed(places):
        path = Path(name)
        for domain in installed():
            if domain.folder and domain.home and path.is_relative_to(domain.folder):
                return f"{path.relative_to(domain.home).as_posix()}, line {line or 1}"
        if path.is_relative_to(home):
            inside = path.relative_to(home).as_posix()
            if inside.startswith(("migrations/versions/", "models/")) and inside not in _DECLARATIONS:
                return f"{inside}, line {line or 1}"
    return None


def _lies_below(target: str, current: str | None, known: Sequence[str]) -> bool:
    return current is not None and (target == BASE or known.index(target) < known.index(current))
