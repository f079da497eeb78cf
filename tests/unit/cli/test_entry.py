"""The entry point: an interrupt during the imports, and a terminal that lacks characters."""

import os
import signal
import subprocess
import sys

from tests.support.paths import ROOT

START = [sys.executable, "-c", "from cli.entry import main; raise SystemExit(main())"]


# Interrupts the process as it imports the first library.
INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from cli.entry import main
raise SystemExit(main())
"""


def test_an_interrupt_while_the_command_is_imported_leaves_no_traceback() -> None:
    """The process ends by the signal, as a shell expects, and prints nothing."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_characters_that_the_terminal_lacks_are_replaced() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "GRISTMILL_NAÏVE": "1"}

    done = subprocess.run(
        [*START, "config"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 2
    assert done.stderr.startswith("gristmill: GRISTMILL_NA?VE is not a setting")
