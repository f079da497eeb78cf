"""Visit every world that can be reached, breadth first, and check each move against the laws."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from tests.model.laws import Law, broken_by_move, broken_in
from tests.model.stand_ins import canonical
from tests.model.world import Around, JobWorld


@dataclass(slots=True)
class Exploration:
    """The result: every world with the move that first led to it, and the shortest way to break each law."""

    worlds: dict[JobWorld, tuple[JobWorld, str] | None] = field(default_factory=dict)
    moves: int = 0
    transitions: set[tuple[str, str]] = field(default_factory=set)
    deeds: set[str] = field(default_factory=set)
    broken: dict[Law, list[str]] = field(default_factory=dict)

    def way_to(self, world: JobWorld) -> list[str]:
        """Return the shortest sequence of moves from the first world. The two workers may be swapped in it."""
        way = []
        while came := self.worlds[world]:
            world, what = came
            way.append(f"{world.row.status}: {what}")
        return way[::-1]

    def blame(self, law: Law, world: JobWorld, *more: str) -> None:
        if law not in self.broken:
            self.broken[law] = [*self.way_to(world), *more]


def explore(around: Around, *, until: Law | None = None) -> Exploration:
    """Visit every world that can be reached; with ``until``, stop when that law is broken."""
    found = Exploration()
    first = canonical(around.first)
    found.worlds[first] = None
    fair_ways: dict[JobWorld, list[JobWorld]] = {}
    stand_in = cache(canonical)
    queue = deque([first])
    while queue and until not in found.broken:
        world = queue.popleft()
        for move in around.moves(world):
            found.moves += 1
            found.deeds.add(move.what)
            for law in broken_by_move(around.lifecycle, world, move):
                found.blame(law, world, move.what)
            after = world if move.after is world else stand_in(move.after)
            if move.after.row.status != world.row.status:
                found.transitions.add((world.row.status, move.after.row.status))
            if move.fair:
                fair_ways.setdefault(after, []).append(world)
            if after not in found.worlds:
                found.worlds[after] = world, move.what
                queue.append(after)
                for law in broken_in(around.lifecycle, after):
                    found.blame(law, after)
    if not queue:
        for world in _stuck(around, found, fair_ways):
            found.blame(Law.ENDS, world, f"stuck: {world}")
    return found


def _stuck(around: Around, found: Exploration, fair_ways: dict[JobWorld, list[JobWorld]]) -> Iterator[JobWorld]:
    """Yield the worlds from which fair moves alone reach no end, the nearest first."""
    ending = {world for world in found.worlds if world.row.status in around.lifecycle.terminal}
    queue = deque(ending)
    while queue:
        for before in fair_ways.get(queue.popleft(), ()):
            if before not in ending:
                ending.add(before)
                queue.append(before)
    return (world for world in found.worlds if world not in ending)
