"""What a run found, as a page for people: each fault with its time to heal, what was done, what the checker says."""

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.bounds import Measured, render
from tests.chaos.checker import Report
from tests.chaos.faults import Fault


@dataclass(frozen=True, slots=True)
class Wound:
    """One injection of one fault. ``healed_after`` counts from its end, by Postgres' clock; infinite if it never did.

    ``bound`` is what it was held to, with all that the machine was granted; ``problems`` are the promises it broke, and
    ``measured`` is what else it promised to be done in time.
    """

    fault: Fault
    lasted: float
    healed_after: float
    bound: float
    problems: Sequence[str] = ()
    measured: Sequence[Measured] = ()


@dataclass(slots=True)
class Outcome:
    """Everything that a run says of itself. ``skipped`` are the faults for which it had no time."""

    seed: int
    command: str
    wounds: list[Wound] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    checked: Report | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        broken = self.problems or any(wound.problems for wound in self.wounds)
        return not broken and self.checked is not None and self.checked.ok

    def render(self) -> str:
        """Return the page."""
        verdict = "every promise was kept" if self.ok else "PROMISES WERE BROKEN"
        parts = [
            _wounds(self.wounds),
            self._measured(),
            self._left_out(),
            "\n".join(f"{name:<28}{count:>9,}" for name, count in self.counts.items()),
            self.checked.render() if self.checked else "not checked: the run did not come to its end",
            "\n".join(f"BROKEN  {problem}" for problem in self._all_problems()),
            f"{verdict} in {self.seconds:.0f} s, seed {self.seed}\nrepeat it with: {self.command}",
        ]
        return "\n\n".join(filter(None, parts))

    def _measured(self) -> str:
        measured = [one for wound in self.wounds for one in wound.measured]
        return render(measured) if measured else ""

    def _left_out(self) -> str:
        if not self.skipped:
            return ""
        there = f"no time for {len(self.skipped)} of {len(self.skipped) + len(self.wounds)}: "
        return textwrap.fill(there + ", ".join(self.skipped), width=100, break_long_words=False)

    def _all_problems(self) -> list[str]:
        return self.problems + [f"{wound.fault.name}: {what}" for wound in self.wounds for what in wound.problems]


def _wounds(wounds: Sequence[Wound]) -> str:
    by_fault: Mapping[str, list[Wound]] = defaultdict(list)
    for wound in wounds:
        by_fault[wound.fault.name].append(wound)
    width = max(map(len, by_fault), default=5)
    lines = [f"{'fault':<{width}}  {'times':>5}  {'lasted':>7}  {'healed':>7}  {'bound':>6}  verdict"]
    for name, ones in by_fault.items():
        worst = max(ones, key=lambda wound: wound.healed_after)
        healed = "never" if math.isinf(worst.healed_after) else f"{worst.healed_after:.1f} s"
        verdict = "BROKEN" if any(wound.problems for wound in ones) else "kept"
        lasted = max(wound.lasted for wound in ones)
        bound = f"{worst.bound:.1f} s"
        lines.append(f"{name:<{width}}  {len(ones):>5}  {lasted:>5.1f} s  {healed:>7}  {bound:>6}  {verdict}")
    return "\n".join(lines)
