"""Three minutes of the nemesis in every test run; `make chaos` takes ten and the whole matrix."""

from pathlib import Path

import pytest

from tests.chaos import nemesis
from tests.chaos.faults import matrix

SEED = 20_261_122
MINUTES = 2.4


@pytest.mark.nemesis
def test_every_promise_is_kept_under_the_brief_matrix(tmp_path: Path) -> None:
    """A whole system under load is killed, cut, frozen, flushed and lied to: its history keeps every promise."""
    outcome = nemesis.run(tmp_path, seed=SEED, minutes=MINUTES, brief=True)

    assert outcome.ok, outcome.render()


def test_each_fault_says_what_happens_what_is_promised_and_until_when() -> None:
    """The matrix documents itself: docs/reliability.md lists every fault by these words."""
    faults = matrix().values()

    assert all(fault.happens and fault.guarantee and fault.heals_within > 0 for fault in faults)
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [fault.name for fault in faults if f"`{fault.name}`" not in page] == []
