"""Login roles of Postgres that have only the rights of one kind of process, and the URLs with which it connects.

Each URL is in its own file, ``database_url_KIND``, which only its owner may read. An existing file decides the login
and its password. An existing login keeps its password, because processes may use it, unless a person asks for new
passwords. A file for another server or database is neither used nor changed.
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
from workers.runtime.operate.logins import GROUPS, LoginState, make_login
from workers.runtime.refusals import Failed

FOLDER = "roles"
_CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Login:
    """One login: its kind, its name, its state, the file for its URL, and the reason if it cannot be used."""

    kind: str
    role: str
    state: LoginState
    file: str
    url: str = field(repr=False)
    problem: str | None = None

    @property
    def made(self) -> bool:
        return self.state is LoginState.MADE


def make_logins(
    database_url: str, folder: Path, *, new_passwords: bool = False, may_have_moved: bool = False
) -> list[Login]:
    """Make the missing logins, as members of their groups, and the files with their URLs in ``folder``.

    A second call changes nothing. If no file has the password of an existing login, the login is not changed unless
    ``new_passwords``, and the answer has the problem. If the server ``may_have_moved`` (an embedded server may get
    another port), a file with another address is corrected, provided that its login and password are valid here.
    Raises Failed if the login of ``database_url`` may not make logins.
    """
    owner = make_url(database_url)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(connect(libpq_url(owner), connect_timeout=_CONNECT_SECONDS)) as connection:
        maker = _LoginMaker(connection, owner, new_passwords=new_passwords, may_have_moved=may_have_moved)
        return [maker.make(kind, _file(folder, kind)) for kind in GROUPS]


def known_urls(database_url: str, folder: Path) -> dict[str, str]:
    """Return the URLs in ``folder`` for the server and database of ``database_url``, by kind."""
    owner = make_url(database_url)
    found = {kind: _read(_file(folder, kind)) for kind in GROUPS}
    here = _place(owner)
    return {kind: libpq_url(url) for kind, url in found.items() if url and _place(url) == here}


def address_and_password(url: str) -> tuple[str, str | None]:
    """Return a URL without its password, and the password. Every user of the machine can read a command line."""
    found = make_url(url)
    return libpq_url(URL.create(**{**found._asdict(), "password": None})), found.password and str(found.password)


def invalid_passwords(database_url: str, folder: Path) -> tuple[int, list[str]]:
    """Try the URLs in ``folder`` for this database; return their number, and a line for each invalid password."""
    known = known_urls(database_url, folder)
    wrong = []
    for kind, url in known.items():
        try:
            with closing(connect(url, connect_timeout=_CONNECT_SECONDS)):
                pass
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                wrong.append(f"password of {make_url(url).username} in {_file(folder, kind)} is no longer valid")
    return len(known), wrong


def _file(folder: Path, kind: str) -> Path:
    return folder / f"database_url_{kind}"


def _read(file: Path) -> URL | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
        url = make_url(text)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ArgumentError):
        raise Failed(f"{file} cannot be read as a URL of Postgres: correct or remove it") from None
    if not (url.username and url.password):
        raise Failed(f"{file} must hold a URL with user and password: correct or remove it")
    return url


def _place(url: URL) -> tuple[object, ...]:
    return url.host, url.port or 5432, url.database, sorted(url.query.items())


def _address(url: URL) -> str:
    return f"{url.host or 'localhost'}:{url.port or 5432}/{url.database}"


@dataclass(frozen=True, slots=True)
class _LoginMaker:
    """Makes the logins of one database."""

    connection: "psycopg.Connection[tuple[object, ...]]"
    owner: URL
    new_passwords: bool
    may_have_moved: bool

    def make(self, kind: str, file: Path) -> Login:
        known = _read(file)
        url = self._url(kind, known)
        role = str(url.username)
        is_ours = known is None or _place(known) == _place(url)
        if known and not is_ours and not (self.may_have_moved and _can_connect(url)):
            problem = f"{file} is for {_address(known)}, not for {_address(url)}: name another folder with --urls"
            return Login(kind, role, LoginState.UNKNOWN_PASSWORD, str(file), libpq_url(url), problem)
        state = make_login(
            self.connection,
            kind,
            role,
            str(url.password),
            connects=lambda: known is not None and _can_connect(url),
            replace_password=self.new_passwords,
        )
        if state is LoginState.UNKNOWN_PASSWORD:
            problem = _explain_unknown_password(role, file, is_there=known is not None)
            return Login(kind, role, state, str(file), libpq_url(url), problem)
        if known is None or not is_ours:
            write_private(file, libpq_url(url) + "\n")
        return Login(kind, role, state, str(file), libpq_url(url))

    def _url(self, kind: str, known: URL | None) -> URL:
        role = (known.username if known else None) or f"gristmill_{kind}_login"
        password = str(known.password) if known and known.password else secrets.token_urlsafe(24)
        return self.owner.set(drivername="postgresql", username=role, password=password)


def _explain_unknown_password(role: str, file: Path, *, is_there: bool) -> str:
    why = f"the password in {file} is not valid" if is_there else f"{file} does not exist"
    return f"login {role} exists and {why}"


def _can_connect(url: URL) -> bool:
    try:
        with closing(connect(libpq_url(url), connect_timeout=_CONNECT_SECONDS)):
            return True
    except psycopg.OperationalError:
        return False
