"""Bounds for times: the promise of the system, plus an allowance for the machine that runs everything."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The allowance of a machine with more processes than cores: one second, plus this factor times the time of a fresh job.
# The time of a fresh job counts only up to a maximum, so that a bound can always be exceeded.
BASE_ALLOWANCE_SECONDS = 1.0
FRESH_JOB_FACTOR = 3
MAX_FRESH_JOB_SECONDS = 3.5
# One quick job does not prove a quick machine. The slowest of the last n fresh jobs counts.
RECENT_JOBS = 3


@dataclass(frozen=True, slots=True)
class MeasuredTime:
    """How long ``what`` took, the promised time, and the time granted on this machine at that moment."""

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


def allowance(fresh_job_seconds: Sequence[float]) -> float:
    """Return the allowance in seconds, from the times that the last fresh jobs took without a fault."""
    return BASE_ALLOWANCE_SECONDS + FRESH_JOB_FACTOR * min(
        max(fresh_job_seconds[-RECENT_JOBS:], default=0.0), MAX_FRESH_JOB_SECONDS
    )


def render(all_measured: Sequence[MeasuredTime]) -> str:
    """Return a table with the worst of each kind."""
    kinds: Mapping[str, list[MeasuredTime]] = defaultdict(list)
    for one in all_measured:
        kinds[one.what].append(one)
    width = max(map(len, kinds), default=8)
    lines = [f"{'promise':<{width}}  {'times':>5}  {'measured':>8}  {'promised':>8}  {'granted':>8}"]
    for what, ones in sorted(kinds.items()):
        worst = max(ones, key=lambda one: one.took - one.granted)
        times = "  ".join(f"{seconds:>6.1f} s" for seconds in (worst.took, worst.promised, worst.granted))
        lines.append(f"{what:<{width}}  {len(ones):>5}  {times}")
    return "\n".join(lines)
