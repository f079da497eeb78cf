"""The entry point of the ``gristmill`` command: Ctrl-C while its modules are imported leaves no traceback."""

# A module of the interpreter itself: the module ``signal`` imports others, which takes time.
import _signal as signal  # type: ignore[import-not-found]


def main() -> int:
    """Run the command. During the imports an interrupt ends the process; afterwards it prints one line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import main as run  # Imported here: an interrupt during the import must leave no traceback.

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
