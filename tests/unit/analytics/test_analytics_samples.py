"""The sample records are the output of their script, with the faults that the README lists."""

import csv
import io

from tests.support.paths import SAMPLES
from tests.unit.analytics.test_analytics_passages import script


def test_committed_samples_are_what_their_script_makes() -> None:
    """Byte for byte, including the tables of the README."""
    for name, content in script("make_records").files().items():
        assert (SAMPLES / name).read_bytes() == content, f"{name} is stale: run `python samples/make_records.py`"


def test_samples_have_the_faults_that_the_readme_lists() -> None:
    """Encodings, line ends, delimiters, headers, and a few hundred records together."""
    tasks, feedback = (SAMPLES / "tasks.csv").read_bytes(), (SAMPLES / "feedback.csv").read_bytes()
    task_rows = list(csv.reader(io.StringIO(tasks.decode("utf-8-sig").replace("\0", "?"), newline="")))
    feedback_rows = list(csv.reader(io.StringIO(feedback.decode("cp1252"), newline=""), delimiter=";"))

    assert tasks.startswith(b"\xef\xbb\xbf")
    assert tasks.count(b"\x00") == 1
    assert b"\r\n" in tasks
    assert task_rows[0].count("notes") == 2
    assert "" in task_rows[0]
    assert {len(row) for row in task_rows} == {3, 8, 10}
    assert b"\r" not in feedback
    assert b"\x93" in feedback
    assert not feedback.endswith(b"\n")
    assert 300 < len(task_rows) + len(feedback_rows) < 500
    assert any("\n" in row[1] for row in task_rows)
    assert any(row[1].startswith("=") for row in task_rows)
