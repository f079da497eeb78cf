"""Login roles of Postgres with no more rights than one kind of process needs, and the URLs by which it connects.

A URL lives in a file of its own, ``database_url_KIND``, that only its owner reads. A file that exists names the login
and its password. A login that exists keeps its password, because processes may be using it, unless a person asks for
new ones. A file that names another server or database is neither used nor changed.
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
    """One login: its kind, its name, what became of it, the file for its URL, and why it cannot be used, if so."""

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
    """Make the logins that are missing, as members of their groups, and the files of their URLs in ``folder``.

    Run again, it changes nothing. An existing login without a file that has its password is left alone, with the
    problem in the answer, unless ``new_passwords``. If the server ``may_have_moved`` (an embedded one takes another
    port), a file with another address is corrected where its login and password are valid here.
    Raises Failed where the database's own login may not do that.
    """
    owner = make_url(database_url)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(connect(libpq_url(owner), connect_timeout=_CONNECT_SECONDS)) as connection:
        maker = _Maker(connection, owner, new_passwords=new_passwords, may_have_moved=may_have_moved)
        return [maker.settle(kind, _file(folder, kind)) for kind in GROUPS]


def known_urls(database_url: str, folder: Path) -> dict[str, str]:
    """Return the URLs by kind that ``folder`` has for the server and database of ``database_url``."""
    owner = make_url(database_url)
    found = {kind: _read(_file(folder, kind)) for kind in GROUPS}
    return {kind: libpq_url(url) for kind, url in found.items() if url and _place(url) == _place(owner)}


def address_and_password(url: str) -> tuple[str, str | None]:
    """Return a URL without its password, and the password: a command line can be read by everybody on the machine."""
    found = make_url(url)
    return libpq_url(URL.create(**{**found._asdict(), "password": None})), found.password and str(found.password)


def invalid_passwords(database_url: str, folder: Path) -> tuple[int, list[str]]:
    """Try the files of this database in ``folder``; return how many there are, and a line for each invalid password."""
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
        raise Failed(f"{file} cannot be read as a URL of Postgres: mend or remove it") from None
    if not (url.username and url.password):
        raise Failed(f"{file} must hold a URL with user and password: mend or remove it")
    return url


def _place(url: URL) -> tuple[object, ...]:
    return url.host, url.port or 5432, url.database, sorted(url.query.items())


def _shown(url: URL) -> str:
    return f"{url.host or 'localhost'}:{url.port or 5432}/{url.database}"


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the logins of one database."""

    connection: "psycopg.Connection[tuple[object, ...]]"
    owner: URL
    new_passwords: bool
    may_have_moved: bool

    def settle(self, kind: str, file: Path) -> Login:
        known = _read(file)
        url = self._url(kind, known)
        role = str(url.username)
        is_ours = known is None or _place(known) == _place(url)
        if known and not is_ours and not (self.may_have_moved and _connects(url)):
            problem = f"{file} is for {_shown(known)}, not for {_shown(url)}: name another folder with --urls"
            return Login(kind, role, LoginState.UNKNOWN_PASSWORD, str(file), libpq_url(url), problem)
        state = make_login(
            self.connection,
            kind,
            role,
            str(url.password),
            connects=lambda: known is not None and _connects(url),
            replace_password=self.new_passwords,
        )
        if state is LoginState.UNKNOWN_PASSWORD:
            return Login(kind, role, state, str(file), libpq_url(url), _unknown(role, file, is_there=known is not None))
        if known is None or not is_ours:
            write_private(file, libpq_url(url) + "\n")
        return Login(kind, role, state, str(file), libpq_url(url))

    def _url(self, kind: str, known: URL | None) -> URL:
        role = (known.username if known else None) or f"gristmill_{kind}_login"
        password = str(known.password) if known and known.password else secrets.token_urlsafe(24)
        return self.owner.set(drivername="postgresql", username=role, password=password)


def _unknown(role: str, file: Path, *, is_there: bool) -> str:
    why = f"the password in {file} is not valid" if is_there else f"{file} does not exist"
    return f"login {role} exists and {why}"


def _connects(url: URL) -> bool:
    try:
        with closing(connect(libpq_url(url), connect_timeout=_CONNECT_SECONDS)):
            return True
    except psycopg.OperationalError:
        return False
