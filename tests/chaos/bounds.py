"""How long things may take: what the system promises, and on top what the machine that runs all of it is granted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What a shared machine with more processes than cores may add to a promise about time: little where a fresh job is done
# at once, and so many times what one takes. No slowness makes a bound so wide that nothing could exceed it.
LOAD_SECONDS = 1.0
SLOWNESS = 3
SLOWEST_SECONDS = 3.5
# One quick job proves no quick machine: the slowest of so many of the last ones counts.
REMEMBERED = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """How long ``what`` took, what is promised of it, and what it was granted on the machine as it was then."""

    what: str
    took: float
    promised: float
    granted: float

    @property
    def kept(self) -> bool:
        return self.took <= self.granted

    def __str__(self) -> str:
        promise = f"{self.promised:g} s are promised, {self.granted:.1f} s granted"
        return f"{self.what} took {self.took:.1f} s; {promise}"


def allowance(calms: Sequence[float]) -> float:
    """Return what is granted on top of a promise, by how long fresh jobs took lately while nothing was hurt."""
    return LOAD_SECONDS + SLOWNESS * min(max(calms[-REMEMBERED:], default=0.0), SLOWEST_SECONDS)


def render(all_measured: Sequence[Measured]) -> str:
    """Return a table with the worst of each kind."""
    kinds: Mapping[str, list[Measured]] = defaultdict(list)
    for one in all_measured:
        kinds[one.what].append(one)
    width = max(map(len, kinds), default=8)
    lines = [f"{'promise':<{width}}  {'times':>5}  {'measured':>8}  {'promised':>8}  {'granted':>8}"]
    for what, ones in sorted(kinds.items()):
        worst = max(ones, key=lambda one: one.took - one.granted)
        times = "  ".join(f"{seconds:>6.1f} s" for seconds in (worst.took, worst.promised, worst.granted))
        lines.append(f"{what:<{width}}  {len(ones):>5}  {times}")
    return "\n".join(lines)
