"""Three minutes of the nemesis in every test run; `make chaos` takes ten and the whole matrix."""

from pathlib import Path

import pytest

from tests.chaos import nemesis
from tests.chaos.faults import AREAS, matrix
from tests.support.paths import ROOT

SEED = 20_261_122
MINUTES = 2.4


@pytest.mark.nemesis
def test_every_promise_is_kept_under_the_brief_matrix(tmp_path: Path) -> None:
    """A whole system under load and faults keeps every promise, and no area of faults is left out."""
    outcome = nemesis.run(tmp_path, seed=SEED, minutes=MINUTES, brief=True)

    assert outcome.ok, outcome.render()
    assert {injection.fault.area for injection in outcome.injections} == set(AREAS), outcome.render()


def test_each_fault_says_what_happens_what_is_promised_and_until_when() -> None:
    """The matrix documents itself: docs/reliability.md lists every fault by these words."""
    faults = matrix().values()

    assert all(fault.happens and fault.guarantee and fault.heals_within > 0 for fault in faults)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = {fault.name: f" | {fault.happens} | {fault.guarantee} | {fault.heals_within:g} s |" for fault in faults}
    assert [name for name, row in rows.items() if f"`{name}`" not in page or row not in page] == []


def test_the_core_of_a_brief_run_holds_one_of_its_faults_of_every_area() -> None:
    """These faults come first, also if the time is over, so that no area is left out."""
    core = [matrix()[name] for name in nemesis.CORE]

    assert all(fault.brief for fault in core)
    assert {fault.area for fault in core} == set(AREAS)
