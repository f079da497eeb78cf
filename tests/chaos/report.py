"""The result of a run as a page for people: each fault with its time to heal, counts, and the result of the checker."""

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.bounds import MeasuredTime, render
from tests.chaos.checker import CheckReport
from tests.chaos.faults import Fault


@dataclass(frozen=True, slots=True)
class Injection:
    """One injection of one fault.

    ``healed_after``: seconds from the end of the fault until the system was healed, by the clock of Postgres; infinite
    if it was not. ``bound``: the maximum for it, with the allowance for this machine. ``problems``: the broken
    promises. ``measured``: the other times that were measured during the fault.
    """

    fault: Fault
    lasted: float
    healed_after: float
    bound: float
    problems: Sequence[str] = ()
    measured: Sequence[MeasuredTime] = ()


@dataclass(slots=True)
class NemesisOutcome:
    """The whole result of a run. ``skipped``: the faults for which there was no time."""

    seed: int
    command: str
    injections: list[Injection] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    checked: CheckReport | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Return whether every promise was kept."""
        broken = self.problems or any(injection.problems for injection in self.injections)
        return not broken and self.checked is not None and self.checked.ok

    def render(self) -> str:
        """Return the page."""
        verdict = "every promise was kept" if self.ok else "PROMISES WERE BROKEN"
        parts = [
            _render_injections(self.injections),
            self._measured(),
            self._left_out(),
            "\n".join(f"{name:<28}{count:>9,}" for name, count in self.counts.items()),
            self.checked.render() if self.checked else "not checked: the run did not finish",
            "\n".join(f"BROKEN  {problem}" for problem in self._all_problems()),
            f"{verdict} in {self.seconds:.0f} s, seed {self.seed}\nrepeat it with: {self.command}",
        ]
        return "\n\n".join(filter(None, parts))

    def _measured(self) -> str:
        measured = [one for injection in self.injections for one in injection.measured]
        return render(measured) if measured else ""

    def _left_out(self) -> str:
        if not self.skipped:
            return ""
        there = f"no time for {len(self.skipped)} of {len(self.skipped) + len(self.injections)}: "
        return textwrap.fill(there + ", ".join(self.skipped), width=100, break_long_words=False)

    def _all_problems(self) -> list[str]:
        return self.problems + [
            f"{injection.fault.name}: {what}" for injection in self.injections for what in injection.problems
        ]


def _render_injections(injections: Sequence[Injection]) -> str:
    by_fault: Mapping[str, list[Injection]] = defaultdict(list)
    for injection in injections:
        by_fault[injection.fault.name].append(injection)
    width = max(map(len, by_fault), default=5)
    lines = [f"{'fault':<{width}}  {'times':>5}  {'lasted':>7}  {'healed':>7}  {'bound':>6}  verdict"]
    for name, ones in by_fault.items():
        worst = max(ones, key=lambda injection: injection.healed_after)
        healed = "never" if math.isinf(worst.healed_after) else f"{worst.healed_after:.1f} s"
        verdict = "BROKEN" if any(injection.problems for injection in ones) else "kept"
        lasted = max(injection.lasted for injection in ones)
        bound = f"{worst.bound:.1f} s"
        lines.append(f"{name:<{width}}  {len(ones):>5}  {lasted:>5.1f} s  {healed:>7}  {bound:>6}  {verdict}")
    return "\n".join(lines)
