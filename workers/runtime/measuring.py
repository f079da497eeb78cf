"""Counters and times of this process, for the metrics of the gateway: a worker has no port that somebody could ask.

Each process adds what it measured to ``runtime.measurements`` every few seconds. Counting is cheap, takes no lock and
raises nothing: it runs once per job.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

# The upper ends of the buckets, in seconds; one more bucket is for what took longer.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
# More label values than this are counted as one: a counter must not grow with what users write.
MAX_SERIES = 1_000
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one counter or histogram has gained; ``buckets`` are empty for a counter."""

    name: str
    labels: str
    number: int
    total: float
    buckets: tuple[int, ...]


@dataclass(slots=True)
class Series:
    """One counter or histogram of this process, since it was last taken."""

    name: str
    labels: str
    is_histogram: bool
    number: int = 0
    total: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, number: int = 1) -> None:
        """Count ``number`` more."""
        self.number += number

    def observe(self, seconds: float) -> None:
        """Count one more that took ``seconds``; clocks may differ, so a negative time counts as none."""
        seconds = max(seconds, 0.0)
        self.number += 1
        self.total += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1


class Measurements:
    """The counters and histograms of one process."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, ...], Series] = {}

    def counter(self, name: str, **labels: str) -> Series:
        return self._find(name, labels, is_histogram=False)

    def histogram(self, name: str, **labels: str) -> Series:
        return self._find(name, labels, is_histogram=True)

    def take(self) -> list[Measured]:
        """Return what was gained since the last call, and count from zero again."""
        taken = []
        for one in self._series.values():
            if one.number:
                buckets = tuple(one.buckets) if one.is_histogram else ()
                taken.append(Measured(one.name, one.labels, one.number, one.total, buckets))
                one.number, one.total, one.buckets = 0, 0.0, [0] * (len(BOUNDS) + 1)
        return taken

    def give_back(self, taken: Iterable[Measured]) -> None:
        """Add what could not be written; it is taken again."""
        for measured in taken:
            one = self._find(measured.name, json.loads(measured.labels), is_histogram=bool(measured.buckets))
            one.number += measured.number
            one.total += measured.total
            if measured.buckets:
                one.buckets = [old + new for old, new in zip(one.buckets, measured.buckets, strict=True)]

    def _find(self, name: str, labels: dict[str, str], *, is_histogram: bool) -> Series:
        key = (name, *labels.values())
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= MAX_SERIES:
                labels = dict.fromkeys(labels, OTHER)
                key = (name, *labels.values())
            text = json.dumps({label: value[:100] for label, value in labels.items()}, sort_keys=True)
            found = self._series.setdefault(key, Series(name, text, is_histogram))
        return found


# Of this process.
MEASUREMENTS = Measurements()
