"""The development key: the API key of the gateway that ``gristmill up`` makes and keeps in the data folder.

It allows everything and acts for nobody, as the person does who owns the data folder.
"""

import asyncio
import hashlib
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from local.data_dir import write_private
from workers.runtime.api_keys import SCOPES, hash_of, is_api_key

FILE = "api_key"
_NAME = "development"


@dataclass(frozen=True, slots=True)
class DevelopmentKey:
    """The key, the file that holds it, and whether it was made just now."""

    path: Path
    secret: str = field(repr=False)
    is_new: bool = False


def read_development_key(data_dir: Path) -> str | None:
    """Return the key that the data folder holds, or None."""
    try:
        found = (data_dir / FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return found if is_api_key(found) else None


def make_development_key(database_url: str, data_dir: Path, *, is_embedded: bool) -> DevelopmentKey:
    """Return the key of the data folder. If it has none, or the database does not accept it, make one.

    On a server that others use too, its name says which folder has it. Raises Refusal or psycopg.Error if the login of
    ``database_url`` may not make keys.
    """
    name = _NAME if is_embedded else f"{_NAME}-{_place(data_dir)}"
    return asyncio.run(_ensure(database_url, data_dir, name))


async def _ensure(database_url: str, data_dir: Path, name: str) -> DevelopmentKey:
    # `gristmill status` reads the file only, and starts faster without these.
    from workers.runtime.actor import Actor
    from workers.runtime.connections import connect_async
    from workers.runtime.database import libpq_url
    from workers.runtime.operate.api_keys import AlreadyRevoked, UnknownKey, create_key, revoke_key
    from workers.runtime.store.api_keys import authenticate_keys

    path = data_dir / FILE
    conn = await connect_async(libpq_url(database_url), autocommit=True)
    try:
        known = read_development_key(data_dir)
        if known and await authenticate_keys(conn, [hash_of(known)]):
            return DevelopmentKey(path, known)
        actor = Actor(changed_by="gristmill up", change_reason="the data folder does not hold it any more")
        with suppress(UnknownKey, AlreadyRevoked):
            await revoke_key(conn, name, actor)
        made = await create_key(conn, actor, name=name, scopes=SCOPES)
    finally:
        await conn.close()
    write_private(path, made.secret + "\n")
    return DevelopmentKey(path, made.secret, is_new=True)


def _place(data_dir: Path) -> str:
    """Return a short text that differs between machines and folders."""
    return hashlib.sha256(f"{socket.gethostname()}:{data_dir.resolve()}".encode()).hexdigest()[:8]
