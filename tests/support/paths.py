"""Paths for tests in any folder."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases"
SAMPLES = ROOT / "samples"
# This folder may exist beside the repository. Tests that need it are skipped with a reason.
SHARED_DATA = ROOT.parent / "shared" / "data"
