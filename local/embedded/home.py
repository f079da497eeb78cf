"""Where the embedded servers keep their data, and what is remembered about them between runs."""

import json
import logging
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self

from local.data_dir import write_private
from local.embedded.account import Account
from local.embedded.errors import EmbeddedError

SHARED_FOLDER = Path("/var/lib/gristmill")
STATE_FILE = "servers.json"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class State:
    """What outlives a run: the password, each server's port, and the home where it is not in the data folder."""

    password: str = field(repr=False)
    ports: dict[str, int] = field(default_factory=dict)
    home: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the remembered state, or None where there is none."""
        try:
            remembered = json.loads(path.read_text(encoding="utf-8"))
            return cls(**remembered)
        except FileNotFoundError:
            return None
        except (TypeError, ValueError):
            raise EmbeddedError(
                f"{str(path)!r} does not hold the state of the embedded servers: mend it, or delete the data folder"
            ) from None

    def write(self, path: Path) -> None:
        """Remember this state, durably and for the owner's eyes only."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")


def settle_home(data_dir: Path, account: Account) -> tuple[Path, State]:
    """Return the folder of the servers' data, created on first use, and the state of that data.

    It lies in ``data_dir``, unless root's ``account`` cannot get there (a root home is closed to it): then under
    the system's folder for variable data, by the hash of ``data_dir``'s path, and the state names it. Data whose
    state is gone, which happens when someone deletes ``data_dir``, is unreadable without the password and is set
    aside; one such folder is kept.
    """
    path = data_dir / STATE_FILE
    state = State.read(path)
    if state is None:
        inside = account.may_enter(data_dir)
        home = data_dir / "servers" if inside else SHARED_FOLDER / sha256(bytes(data_dir)).hexdigest()[:16]
        _set_aside(home)
        state = State(secrets.token_hex(24), home=None if inside else str(home))
        state.write(path)
    home = home_of(data_dir, state)
    if not home.exists():
        home.mkdir(parents=True)
        if state.home:
            home.parent.chmod(0o755)
        home.chmod(0o711 if account.switch else 0o700)
    if not account.may_enter(home):
        raise EmbeddedError(
            f"user {account.name!r} cannot enter {str(home)!r}: move the data folder out of a closed one"
        )
    return home, state


def home_of(data_dir: Path, state: State) -> Path:
    """Return the folder of the servers' data."""
    return Path(state.home) if state.home else data_dir / "servers"


def remove_home(data_dir: Path, state: State) -> None:
    """Delete the folder of the servers' data, and the one around it if nothing else is kept there."""
    home = home_of(data_dir, state)
    if home.exists():
        shutil.rmtree(home)
    if home.parent == SHARED_FOLDER:
        with suppress(OSError):
            SHARED_FOLDER.rmdir()


def own_folder(home: Path, name: str, account: Account) -> Path:
    """Return ``home/name``, open to ``account`` alone; refuse one that belongs to somebody else."""
    folder = home / name
    if not folder.exists():
        folder.mkdir(mode=0o700)
        account.give(folder)
    check_owner(folder, account)
    return folder


def check_owner(folder: Path, account: Account) -> None:
    """Raise EmbeddedError unless ``folder`` belongs to ``account``."""
    owner = folder.stat().st_uid
    if owner != account.uid:
        raise EmbeddedError(
            f"{str(folder)!r} belongs to uid {owner}, but the servers would run as {account.name!r}:"
            " start as the user who created it, or set GRISTMILL_DATA_DIR"
        )


def _set_aside(home: Path) -> None:
    if home.exists():
        aside = home.with_name(f"{home.name}.old")
        if aside.exists():
            shutil.rmtree(aside)
        home.rename(aside)
        _log.warning("data without its state was set aside as %s; delete it when you do not miss it", aside)
