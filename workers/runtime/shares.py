"""How the slots of a worker process are shared out while somebody waits. Pure."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# While others wait, the jobs of one key and of one owner hold at most this part of the slots, and so do those of a
# stage while another one waits.
SHARE = 0.5
# Room beside the slots, as a part of them: for each stage that has less than this, and for those who wait behind a key
# or an owner that holds more than its share.
ROOM_BESIDE = 1 / 8


def share_of(slots: int) -> int:
    """Return how many of ``slots`` a stage, a key or an owner may hold while others wait."""
    return max(math.ceil(slots * SHARE), 1)


def room_beside(slots: int) -> int:
    """Return how many jobs of each stage a process of ``slots`` slots runs even if other jobs hold all slots."""
    return max(int(slots * ROOM_BESIDE), 1)


@dataclass(frozen=True, slots=True)
class Crowd:
    """The owners and the values of the gate column that hold more than their share of the slots of a stage."""

    owners: Collection[str] = ()
    keys: Collection[str] = ()

    def __bool__(self) -> bool:
        return bool(self.owners or self.keys)

    def has(self, owner: str, key: str | None) -> bool:
        """Tell whether a job must let others go first.

        If one owner's jobs of one key hold the slots, its jobs of other keys need not, and other owners' jobs need not.
        """
        if not self:
            return False
        return (not self.owners or owner in self.owners) and (not self.keys or key in self.keys)


NOBODY = Crowd()


def crowd_of(owners: Mapping[str, int], keys: Mapping[str, int], *, slots: int) -> Crowd:
    """Return who holds more than its share, by the numbers of jobs that each owner and each key has running."""
    most = share_of(slots)
    return Crowd(
        frozenset(one for one, n in owners.items() if n > most), frozenset(one for one, n in keys.items() if n > most)
    )
