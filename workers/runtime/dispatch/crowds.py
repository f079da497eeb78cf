"""When shares are looked at before the dispatch, and how many jobs go out beside the slots. Pure."""

from collections import Counter
from collections.abc import Sequence

from workers.runtime.shares import NOBODY, Crowd, crowd_of, room_beside
from workers.runtime.store.gates import Flight
from workers.runtime.store.processes import StageCapacity

# Slots that free themselves faster than this part of them in a second are not held: whoever waits gets one soon.
SLOW_PART = 0.5


def is_slow(capacity: StageCapacity, *, per_second: float) -> bool:
    """Tell whether slots come free so slowly that somebody may wait for long: only then shares are looked at."""
    return capacity.slots > 0 and per_second < capacity.slots * SLOW_PART


def crowd_in_flight(flight: Sequence[Flight], capacity: StageCapacity) -> Crowd:
    """Return who holds more than its share while all slots are held; nobody does if slots are free.

    If one owner and one key hold everything, others who come go before them.
    """
    if sum(group.claimed for group in flight) < capacity.slots:
        return NOBODY
    owners: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for group in flight:
        owners[group.owner] += group.claimed
        if group.key is not None:
            keys[group.key] += group.claimed
    return crowd_of(owners, keys, slots=capacity.slots)


def beside(capacity: StageCapacity) -> int:
    """Return how many jobs may be dispatched for the room beside the slots of all workers of a stage."""
    workers = max(capacity.workers, 1)
    return workers * room_beside(capacity.slots // workers)
