"""Failpoints: one list of names, each used once; nothing where none is armed; no start with a name that is none."""

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
    """Run ``code`` in a process that is told to die at ``armed``."""
    return subprocess.run(
        [sys.executable, "-c", code], env={VARIABLE: armed}, cwd=ROOT, capture_output=True, text=True, check=False
    )


def used() -> Counter[str]:
    """Return how often the code comes to each failpoint, by its name as it is written there."""
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
    """The declaration is the list: a name that is nowhere, or a place without a declared name, is found here."""
    assert used() == dict.fromkeys(POINTS, 1)


def test_failpoints_come_in_pairs() -> None:
    """Each step can be died before and after."""
    steps = {point.rpartition(".")[0] for point in POINTS}
    assert sorted(POINTS) == sorted(f"{step}.{side}" for step in steps for side in ("before", "after"))


def test_unarmed_failpoint_lets_everything_pass() -> None:
    """No environment, no effect, at every point."""
    for point in POINTS:
        failpoint(point)


def test_armed_process_ends_at_the_arrival_that_was_named() -> None:
    """At the second one here, at once and with a code of its own; other points let it pass."""
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
    """One line says what is wrong, before anything runs; a typing error must not pass for a proof."""
    done = run("import workers.runtime.worker.runner\nprint('started')", armed)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_several_failpoints_are_separated_by_commas() -> None:
    """Blanks do not matter; a point without a number means its first arrival."""
    assert parse(" claim.after, publish.before:3 ,") == {"claim.after": 1, "publish.before": 3}
    assert parse("") == {}


def test_deployed_system_cannot_be_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To ``gristmill`` the variable is no setting: it refuses to start with it."""
    monkeypatch.setenv(VARIABLE, "claim.after")

    with pytest.raises(settings.SettingsError, match=f"{VARIABLE} is not a setting"):
        settings.load()
