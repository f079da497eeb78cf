"""A provider that refuses, hangs, answers slowly or incompletely, or cannot be reached.

A part of these failures also happens in the normal load (``EVERYDAY``).
"""

from collections.abc import Sequence
from typing import Any

from tests.chaos.arena import Arena
from tests.chaos.faults import fault
from tests.chaos.workload import score

FAULT_SECONDS = 4.0
JOBS = 10
# One failure says that the provider is away, and then one call at a time asks it: with more failures than these, the
# load would be faster than the calls.
EVERYDAY: Sequence[dict[str, Any]] = (
    {"kind": "answer", "delay_ms": 200, "weight": 30},
    {"kind": "answer", "delay_ms": 1_500, "weight": 6},
    {"kind": "status", "status": 429, "retry_after": "1", "weight": 2},
    {"kind": "status", "status": 500, "weight": 2},
    {"kind": "truncated", "weight": 1},
    {"kind": "malformed", "weight": 1},
    {"kind": "disconnect", "weight": 1},
    {"kind": "drip", "weight": 1},
    {"kind": "hang", "weight": 1},
)


@fault()
def provider_fails(arena: Arena) -> None:
    """Every answer of the provider is a 429, a 500, a broken connection, a hang, a very slow or an incomplete answer:

    no job is lost.
    """
    arena.provider.script(mix=[behaviour for behaviour in EVERYDAY if behaviour["kind"] != "answer"])
    _ask(arena)
    arena.provider.script(mix=list(EVERYDAY))


@fault()
def provider_unreachable(arena: Arena) -> None:
    """Connections to the provider are reset and refused: jobs are retried later, and no job is lost."""
    with arena.provider_proxy.refusing():
        _ask(arena)


@fault(brief=False)
def provider_half_open(arena: Arena) -> None:
    """Every open connection to the provider becomes half-open: its calls end at their deadline and are retried."""
    _ask(arena)
    arena.provider_proxy.silence()


def _ask(arena: Arena) -> None:
    orders = [score(arena.draw, arena.workload.profiles) for _ in range(JOBS)]
    arena.workload.put("scoring.score", [payload for _, payload in orders])
    arena.rest(FAULT_SECONDS)
