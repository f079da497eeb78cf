"""Login roles of Postgres with no more rights than one kind of process needs, and the URLs by which it connects.

A URL lives in a file of its own, ``database_url_KIND``, that only its owner reads. A file that is there already says
what the login is called and its password; what is missing is made.
"""

import secrets
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from local.data_dir import write_private
from workers.runtime.connections import connect
from workers.runtime.database import libpq_url
from workers.runtime.operate.logins import GROUPS, make_login
from workers.runtime.refusals import Failed

FOLDER = "roles"
_CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Login:
    """One login: its kind, its name, whether it was made now, and the file that holds its URL."""

    kind: str
    role: str
    made: bool
    file: str
    url: str = field(repr=False)


def make_logins(database_url: str, folder: Path) -> list[Login]:
    """Make the logins that are missing, as members of their groups, and the files of their URLs in ``folder``.

    Run again, it changes nothing. Raises Failed where the database's own login may not do that.
    """
    owner = make_url(database_url)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(connect(libpq_url(owner), connect_timeout=_CONNECT_SECONDS)) as connection:
        return [_settle(connection, owner, kind, _file(folder, kind)) for kind in GROUPS]


def known_urls(database_url: str, folder: Path) -> dict[str, str]:
    """Return the URLs by kind that ``folder`` has for the server and database of ``database_url``."""
    owner = make_url(database_url)
    found = {kind: _read(_file(folder, kind)) for kind in GROUPS}
    return {kind: libpq_url(url) for kind, url in found.items() if url and _place(url) == _place(owner)}


def _file(folder: Path, kind: str) -> Path:
    return folder / f"database_url_{kind}"


def _read(file: Path) -> URL | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
        url = make_url(text)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ArgumentError):
        raise Failed(f"{file} cannot be read as a URL of Postgres: mend or remove it") from None
    if not (url.username and url.password):
        raise Failed(f"{file} must hold a URL with user and password: mend or remove it")
    return url


def _place(url: URL) -> tuple[object, ...]:
    return url.host, url.port or 5432, url.database, sorted(url.query.items())


def _settle(connection: "psycopg.Connection[tuple[object, ...]]", owner: URL, kind: str, file: Path) -> Login:
    known = _read(file)
    role = (known.username if known else None) or f"gristmill_{kind}_login"
    password = str(known.password) if known and known.password else secrets.token_urlsafe(24)
    url = owner.set(drivername="postgresql", username=role, password=password)
    made = make_login(connection, kind, role, password, connects=lambda: _connects(url))
    if known is None or _place(known) != _place(url):
        write_private(file, libpq_url(url) + "\n")
    return Login(kind, role, made, str(file), libpq_url(url))


def _connects(url: URL) -> bool:
    try:
        with closing(connect(libpq_url(url), connect_timeout=_CONNECT_SECONDS)):
            return True
    except psycopg.OperationalError:
        return False
