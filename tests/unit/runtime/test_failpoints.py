"""Failpoints: each name is used once, an unarmed one does nothing, an unknown name stops the start."""

import ast
import subprocess
import sys
from collections import Counter

import pytest

from config import settings
from tests.support.paths import ROOT
from workers.runtime.failpoints import EXIT_CODE, POINTS, VARIABLE, failpoint, parse

REACH_TWICE = """
from workers.runtime.failpoints import failpoint
failpoint("claim.before")
failpoint("claim.after")
print("once", flush=True)
failpoint("claim.after")
print("twice", flush=True)
"""


def run(code: str, armed: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process that ends at the failpoints ``armed``."""
    return subprocess.run(
        [sys.executable, "-c", code], env={VARIABLE: armed}, cwd=ROOT, capture_output=True, text=True, check=False
    )


def used() -> Counter[str]:
    """Return how often each failpoint is in the code, by its name."""
    names: Counter[str] = Counter()
    for path in (ROOT / "workers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="failpoint"), args=[ast.Constant(value=str(name))]):
                    names[name] += 1
                case ast.Call(func=ast.Name(id="failpoint")):
                    names[f"{path}:{node.lineno} names none"] += 1
    return names


def test_every_declared_failpoint_stands_in_the_code_once_and_no_other_does() -> None:
    """Find declared names that are not in the code, and names in the code that are not declared."""
    assert used() == dict.fromkeys(POINTS, 1)


def test_failpoints_come_in_pairs() -> None:
    """The process can end before and after each step."""
    steps = {point.rpartition(".")[0] for point in POINTS}
    assert sorted(POINTS) == sorted(f"{step}.{side}" for step in steps for side in ("before", "after"))


def test_unarmed_failpoint_lets_everything_pass() -> None:
    """Without the environment variable, no failpoint has an effect."""
    for point in POINTS:
        failpoint(point)


def test_armed_process_ends_at_the_arrival_that_was_named() -> None:
    """The process ends at the second arrival, at once and with its own exit code; other failpoints do nothing."""
    done = run(REACH_TWICE, "claim.after:2")

    assert (done.returncode, done.stdout) == (EXIT_CODE, "once\n")
    assert done.stderr == "failpoint claim.after reached\n"


@pytest.mark.parametrize(
    ("armed", "complaint"),
    [
        ("claim.aftre", "GRISTMILL_FAILPOINTS names failpoints, got 'claim.aftre'; known failpoints: enqueue.before, "),
        ("claim.after:0", "GRISTMILL_FAILPOINTS counts arrivals from 1, got 'claim.after:0'"),
        ("claim.after:x", "GRISTMILL_FAILPOINTS counts arrivals from 1, got 'claim.after:x'"),
    ],
)
def test_process_armed_with_what_is_no_failpoint_does_not_start(armed: str, complaint: str) -> None:
    """One line names the error before anything runs: a typing error must not look like a passed test."""
    done = run("import workers.runtime.worker.runner\nprint('started')", armed)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_several_failpoints_are_separated_by_commas() -> None:
    """Blanks are ignored; a failpoint without a number means its first arrival."""
    assert parse(" claim.after, publish.before:3 ,") == {"claim.after": 1, "publish.before": 3}
    assert parse("") == {}


def test_deployed_system_cannot_be_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is not a setting: ``gristmill`` refuses to start with it."""
    monkeypatch.setenv(VARIABLE, "claim.after")

    with pytest.raises(settings.SettingsError, match=f"{VARIABLE} is not a setting"):
        settings.load()
