"""Who the servers run as, and what that account may reach. PostgreSQL refuses to run as root."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from local.embedded.errors import EmbeddedError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that runs the servers. ``switch`` says that it is not the caller, so privileges must be dropped."""

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def run_as(self) -> tuple[int, int] | None:
        """The uid and gid to change to, or None where the caller runs the servers itself."""
        return (self.uid, self.gid) if self.switch else None

    def may_enter(self, folder: Path) -> bool:
        """Return whether ``folder`` and all its parents let this account pass."""
        if not self.switch:
            return True
        return all(self.permits(place.stat(), stat.S_IXOTH) for place in (folder, *folder.parents))

    def may_run(self, program: Path) -> bool:
        """Return whether this account may read and execute ``program`` where it lies."""
        if not self.switch:
            return True
        return self.may_enter(program.parent) and self.permits(program.stat(), stat.S_IROTH | stat.S_IXOTH)

    def permits(self, entry: os.stat_result, wanted: int) -> bool:
        """Return whether the mode of ``entry`` grants this account ``wanted``, given as bits for others."""
        if entry.st_uid == self.uid:
            wanted <<= 6
        elif entry.st_gid == self.gid:
            wanted <<= 3
        return entry.st_mode & wanted == wanted

    def give(self, path: Path) -> None:
        """Make this account the owner of ``path``."""
        if self.switch:
            os.chown(path, self.uid, self.gid)


def servers_account() -> Account:
    """Return the caller's account, or for root the unprivileged one; raise EmbeddedError where it has no name."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwnam(UNPRIVILEGED) if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        who = f"root needs the user {UNPRIVILEGED!r}, which" if uid == 0 else f"uid {uid}"
        raise EmbeddedError(
            f"{who} has no passwd entry, and the embedded PostgreSQL cannot start without one:"
            " set DATABASE_URL and REDIS_URL, or start as a named user"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=uid == 0)
