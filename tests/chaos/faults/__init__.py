"""All faults. A fault is one function. To add a fault, write a function in the module of its area.

The function injects the fault, waits, removes the fault and returns. If it promises more than recovery, it checks that
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
    "gateways",
)
MAX_HEAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix.

    ``heals_within``: the maximum time, by the clock of Postgres, from the end of the fault until a fresh job is
    completed and every worker has taken one.
    ``brief``: the fault is part of the three-minute run.
    ``isolates``: during the fault, any worker may be unable to receive from Postgres or to send to it. If a fault
    isolates workers that it knows, it records them itself in ``Evidence.isolated_workers``.
    ``lingers``: the fault is not removed. It lasts until the system is healed and every worker can send and receive.
    """

    name: str
    area: str
    act: Act
    heals_within: float
    brief: bool
    isolates: bool
    lingers: bool

    @property
    def happens(self) -> str:
        """What is done to the system."""
        return self._words[0]

    @property
    def guarantee(self) -> str:
        """What is promised during the fault."""
        return self._words[1].rstrip(".")

    @property
    def _words(self) -> tuple[str, str]:
        happens, _, guarantee = " ".join((self.act.__doc__ or "").split()).partition(": ")
        return happens, guarantee


FAULTS: dict[str, Fault] = {}


def fault(
    *, heals_within: float = MAX_HEAL_SECONDS, brief: bool = True, isolates: bool = False, lingers: bool = False
) -> Callable[[Act], Act]:
    """Register the decorated function in the matrix by its name."""

    def enter(act: Act) -> Act:
        name = act.__name__
        area = act.__module__.rpartition(".")[2]
        FAULTS[name] = Fault(name, area, act, heals_within, brief, isolates, lingers)
        return act

    return enter


def matrix() -> dict[str, Fault]:
    """Return every fault by name."""
    for area in AREAS:
        import_module(f"{__name__}.{area}")
    return FAULTS
