"""Where things are, for tests at any depth."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases"
SAMPLES = ROOT / "samples"
# Beside the repository where there is one; tests that need it skip with the reason.
SHARED_DATA = ROOT.parent / "shared" / "data"
