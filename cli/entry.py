"""Where the ``gristmill`` command begins: Ctrl-C while its modules are imported ends it without a traceback."""

# Of the interpreter itself: the module ``signal`` imports others, which takes a while.
import _signal as signal  # type: ignore[import-not-found]


def main() -> int:
    """Run the command. Until all is imported an interrupt ends the process at once; afterwards it is told in a line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import main as run  # Imported here: an interrupt meanwhile must leave no traceback.

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
