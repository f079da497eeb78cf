"""The figures of a run. One figure has the samples of every contender."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS = "gristmill"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value: samples by contender, one per interleaved round. In a comparison ours is the first."""

    name: str
    title: str
    unit: str
    samples: dict[str, list[float]]

    @property
    def contenders(self) -> list[str]:
        return list(self.samples)

    def median(self, contender: str = OURS) -> float | None:
        """Return the median of ``contender``, or None if it was not measured."""
        samples = self.samples.get(contender)
        return statistics.median(samples) if samples else None

    def ratio(self, beside: str) -> float | None:
        """Return the ratio of ours to ``beside``: the median of the ratios of all rounds.

        The load of the machine is about the same within one round.
        """
        ratios = self.ratios(beside)
        return statistics.median(ratios) if ratios else None

    def ratios(self, beside: str) -> list[float]:
        """Return the ratio of each round."""
        pairs = zip(self.samples.get(OURS, ()), self.samples.get(beside, ()), strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs]


@dataclass(slots=True)
class Results:
    """One run: its machine, its options, its figures and its failures.

    ``loads``: the machine's load of the last minute at the start of each part.
    """

    environment: dict[str, Any]
    options: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)

    def get(self, name: str) -> Figure | None:
        """Return the figure of that name."""
        return next((figure for figure in self.figures if figure.name == name), None)

    def starting(self, prefix: str) -> list[Figure]:
        """Return the figures with this prefix, in the order of measuring."""
        return [figure for figure in self.figures if figure.name.startswith(prefix)]

    def write(self, path: Path) -> None:
        """Save the run as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def read(path: Path) -> Results:
    """Return the run that :meth:`Results.write` saved."""
    stored = json.loads(path.read_text())
    return Results(
        stored["environment"],
        stored["options"],
        [Figure(**one) for one in stored["figures"]],
        stored["failures"],
        stored.get("loads", {}),
    )


def figure(name: str, title: str, unit: str, samples: Mapping[str, float | Iterable[float]]) -> Figure:
    """Return a figure. A contender that was measured once may be given as a number."""
    return Figure(
        name,
        title,
        unit,
        {
            who: [float(measured)] if isinstance(measured, int | float) else [float(one) for one in measured]
            for who, measured in samples.items()
        },
    )
