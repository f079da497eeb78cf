"""Every fault there is. A fault is one function; adding one is writing it beside its like.

It hurts the system, waits as long as the hurt lasts, undoes it and returns; what it promises beyond recovery it checks
itself. Its docstring is its row of the matrix: first what happens, then, after a colon, what is guaranteed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from tests.chaos.arena import Arena

Act = Callable[[Arena], None]
AREAS = (
    "processes",
    "crashes",
    "leadership",
    "postgres",
    "valkey",
    "messages",
    "handlers",
    "provider",
    "jobs",
    "waits",
    "tenants",
)
HEALS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix. ``heals_within`` bounds, by Postgres' clock, the time from the end of the fault until a

    fresh job is completed and every worker has taken one. A ``brief`` fault is part of the three-minute run. One that
    ``deafens`` may keep any worker from hearing what Postgres says, or from being heard, as long as it lasts; one that
    does so to workers it knows notes that itself, in ``Evidence.deaf_alone``. One that ``lingers`` is not undone: it
    lasts until the system is well again, and every worker is heard and hears.
    """

    name: str
    area: str
    act: Act
    heals_within: float
    brief: bool
    deafens: bool
    lingers: bool

    @property
    def happens(self) -> str:
        """What is done to the system."""
        return self._words[0]

    @property
    def guarantee(self) -> str:
        """What is promised all the same."""
        return self._words[1].rstrip(".")

    @property
    def _words(self) -> tuple[str, str]:
        happens, _, guarantee = " ".join((self.act.__doc__ or "").split()).partition(": ")
        return happens, guarantee


FAULTS: dict[str, Fault] = {}


def fault(
    *, heals_within: float = HEALS_SECONDS, brief: bool = True, deafens: bool = False, lingers: bool = False
) -> Callable[[Act], Act]:
    """Enter the decorated function into the matrix under its name."""

    def enter(act: Act) -> Act:
        name = act.__name__
        area = act.__module__.rpartition(".")[2]
        FAULTS[name] = Fault(name, area, act, heals_within, brief, deafens, lingers)
        return act

    return enter


def matrix() -> dict[str, Fault]:
    """Return every fault by name."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return FAULTS
