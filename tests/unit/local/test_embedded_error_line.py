"""The reason why a server did not start, from its log."""

from pathlib import Path

import pytest

from local.embedded.server import last_error_line


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("LOG: starting\nFATAL: could not bind\nLOG: database system is shut down\n", "FATAL: could not bind"),
        ("Warning: Failed listening on port 1 (tcp)\n# bye bye\n", "Warning: Failed listening on port 1 (tcp)"),
        ("first\nlast\n\n", "last"),
        ("", "it printed nothing"),
    ],
)
def test_the_last_line_that_reports_a_failure_is_quoted(tmp_path: Path, log: str, reason: str) -> None:
    """A line with a failure is preferred to the later lines of the shutdown."""
    path = tmp_path / "server.log"
    path.write_text(log)

    assert last_error_line(path) == reason


def test_errors_of_earlier_runs_are_not_quoted(tmp_path: Path) -> None:
    """Only lines of this start can be its reason."""
    path = tmp_path / "server.log"
    path.write_text("FATAL: yesterday\n")
    before = path.stat().st_size
    with path.open("a") as file:
        file.write("today\n")

    assert last_error_line(path, before) == "today"
