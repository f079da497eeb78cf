"""The folder of the embedded servers' data, and the state that is kept between runs."""

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
from local.embedded.account import ServerAccount
from local.embedded.errors import EmbeddedError

SHARED_FOLDER = Path("/var/lib/gristmill")
STATE_FILE = "servers.json"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ServersState:
    """What is kept between runs: the password, each server's port, and the home if it is outside the data folder."""

    password: str = field(repr=False)
    ports: dict[str, int] = field(default_factory=dict)
    home: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the state in ``path``, or None if there is no file."""
        try:
            remembered = json.loads(path.read_text(encoding="utf-8"))
            return cls(**remembered)
        except FileNotFoundError:
            return None
        except (TypeError, ValueError):
            raise EmbeddedError(
                f"{str(path)!r} does not hold the state of the embedded servers: repair it, or delete the data folder"
            ) from None

    def write(self, path: Path) -> None:
        """Write this state durably to ``path``. Only its owner may read it."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")


def prepare_home(data_dir: Path, account: ServerAccount) -> tuple[Path, ServersState]:
    """Return the folder of the servers' data, created on first use, and the state of that data.

    The folder is in ``data_dir``. If root's ``account`` cannot enter that (root's home folder is closed to it), the
    folder is below SHARED_FOLDER, named by a hash of ``data_dir``'s path, and the state holds its path. If data exists
    without its state (somebody deleted ``data_dir``), nobody has its password. That folder is renamed; one such folder
    is kept.
    """
    path = data_dir / STATE_FILE
    state = ServersState.read(path)
    if state is None:
        inside = account.may_enter(data_dir)
        home = data_dir / "servers" if inside else SHARED_FOLDER / sha256(bytes(data_dir)).hexdigest()[:16]
        _set_aside(home)
        state = ServersState(secrets.token_hex(24), home=None if inside else str(home))
        state.write(path)
    home = home_of(data_dir, state)
    if not home.exists():
        home.mkdir(parents=True)
        if state.home:
            home.parent.chmod(0o755)
        home.chmod(0o711 if account.switch else 0o700)
    if not account.may_enter(home):
        raise EmbeddedError(
            f"user {account.name!r} cannot enter {str(home)!r}: move the data folder to a place that it can enter"
        )
    return home, state


def home_of(data_dir: Path, state: ServersState) -> Path:
    """Return the folder of the servers' data."""
    return Path(state.home) if state.home else data_dir / "servers"


def remove_home(data_dir: Path, state: ServersState) -> None:
    """Delete the folder of the servers' data, and SHARED_FOLDER if it is empty then."""
    home = home_of(data_dir, state)
    if home.exists():
        shutil.rmtree(home)
    if home.parent == SHARED_FOLDER:
        with suppress(OSError):
            SHARED_FOLDER.rmdir()


def make_own_folder(home: Path, name: str, account: ServerAccount) -> Path:
    """Return ``home/name``, which only ``account`` may enter. Refuse a folder of another user."""
    folder = home / name
    if not folder.exists():
        folder.mkdir(mode=0o700)
        account.take_ownership(folder)
    check_owner(folder, account)
    return folder


def check_owner(folder: Path, account: ServerAccount) -> None:
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
        _log.warning("data without its state was moved to %s; delete it if you do not need it", aside)
