"""The account that runs the servers, and what it may access. PostgreSQL refuses to run as root."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from local.embedded.errors import EmbeddedError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The user that runs the servers. If it is not the caller, ``switch`` is true and privileges must be dropped."""

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def run_as(self) -> tuple[int, int] | None:
        """The uid and gid to change to, or None if the caller runs the servers itself."""
        return (self.uid, self.gid) if self.switch else None

    def may_enter(self, folder: Path) -> bool:
        """Return whether this account may enter ``folder`` and all its parents."""
        if not self.switch:
            return True
        return all(self.permits(place.stat(), stat.S_IXOTH) for place in (folder, *folder.parents))

    def may_run(self, program: Path) -> bool:
        """Return whether this account may read and execute ``program`` in its folder."""
        if not self.switch:
            return True
        return self.may_enter(program.parent) and self.permits(program.stat(), stat.S_IROTH | stat.S_IXOTH)

    def permits(self, entry: os.stat_result, wanted: int) -> bool:
        """Return whether the mode of ``entry`` gives this account the rights ``wanted``, in the bits for others."""
        if entry.st_uid == self.uid:
            wanted <<= 6
        elif entry.st_gid == self.gid:
            wanted <<= 3
        return entry.st_mode & wanted == wanted

    def take_ownership(self, path: Path) -> None:
        """Make this account the owner of ``path``."""
        if self.switch:
            os.chown(path, self.uid, self.gid)


def find_server_account() -> ServerAccount:
    """Return the caller's account, or ``nobody`` for root; raise EmbeddedError if it has no passwd entry."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwnam(UNPRIVILEGED) if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        who = f"root needs the user {UNPRIVILEGED!r}, which" if uid == 0 else f"uid {uid}"
        raise EmbeddedError(
            f"{who} has no passwd entry, and the embedded PostgreSQL cannot start without one:"
            " set DATABASE_URL and REDIS_URL, or start as a named user"
        ) from None
    return ServerAccount(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=uid == 0)
