"""``gristmill assessments`` as a person and as a script use it, on a real database."""

import json
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support.command_line import as_json

RESULT = {
    "assessment_type": "mcp_server",
    "score": 0.62,
    "verdict": "good",
    "criteria": [
        {
            "name": "description",
            "score": 0.75,
            "points": 4,
            "lowest": 1,
            "highest": 5,
            "weight": 25,
            "evidence": ["serves the files of one folder"],
            "reasoning": "It says what it does and for whom.",
            "rule_based": False,
        }
    ],
    "schema_check": {
        "valid": False,
        "against": "server.schema.json",
        "error_count": 1,
        "errors": [{"path": "$.version", "rule": "required", "message": "version is missing"}],
    },
    "flags": ["the schema is broken"],
    "model": "offline-rubric-v1",
    "rule_based": True,
    "note": "rule-based, not an AI judgement",
}


@pytest.fixture
def gristmill(gristmill):
    """Run one command on assessments."""
    return partial(gristmill, "assessments")


def test_an_assessment_is_created_changed_and_shown_with_its_criteria(gristmill):
    """A person reads the verdict with its reasons, and the history."""
    request = ("--server", "io.github.acme/files", "--type", "mcp_server")
    job_id = as_json(gristmill, "create", "a-1", *request, "--reason", "for the shop")["id"]
    assert gristmill("create", "a-1", *request)[1].strip() == job_id
    assert as_json(gristmill, "update", "a-1", "processing", "--version", "1", "--progress", "40")["version"] == 2
    code, said, _ = gristmill("update", "a-1", "completed", "--version", "2", "--result", json.dumps(RESULT))
    assert (code, said.strip()) == (0, "a-1 is completed, version 3")

    code, shown, _ = gristmill("show", "a-1")

    assert code == 0
    for line in (
        "GOOD  0.62  (mcp_server, by offline-rubric-v1)",
        "note: rule-based, not an AI judgement",
        "! the schema is broken",
        "schema: 1 error against server.schema.json",
        "    – $.version: version is missing",
        "description             ████████·· 0.75   4 on 1–5, weight 25, by the model",
        "    It says what it does and for whom.",
        "    – serves the files of one folder",
    ):
        assert line in shown.splitlines()
    trail = as_json(gristmill, "audit", "a-1")
    assert [row["change_action"] for row in trail] == ["enqueue", "claim", "complete"]
    assert {row["changed_by"].partition(":")[0] for row in trail} == {"cli"}
    assert trail[0]["change_reason"] == "for the shop"
    [listed] = as_json(gristmill, "list", "--state", "completed")
    assert (listed["assessment_id"], listed["state"], listed["result_data"]["score"]) == ("a-1", "completed", 0.62)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("update", "a-1", "processing", "--version", "7"), 1, "assessment 'a-1' has version 1, expected version 7"),
        (("update", "a-1", "completed", "--version", "1"), 1, "'a-1' is pending, it cannot become completed"),
        (("update", "a-2", "processing", "--version", "1"), 1, "assessment 'a-2' does not exist (any more)"),
        (("update", "a-1", "done", "--version", "1"), 2, "state must be one of pending, processing, completed, failed"),
        (("show", "a-2"), 1, "assessment 'a-2' has no history"),
        (("list", "--state", "done"), 2, "state must be one of"),
        (("create", "a-3"), 2, "say what to assess: --server and --type, or --request"),
        (("create", "a-1", "--server", "s", "--type", "t"), 2, "assessment 'a-1' exists with another request"),
        (("import",), 2, "name a source: --table NAME or a CSV or JSON-lines FILE"),
        (("import", "--table", "nothing"), 1, "table 'nothing' is not in this database"),
    ],
)
def test_an_impossible_change_is_refused_in_one_line(gristmill, psql, arguments, code, line):
    """There is no traceback, and nothing changes."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")

    returned, _, said = gristmill(*arguments)

    assert (returned, len(said.splitlines())) == (code, 1)
    assert line in said


def test_a_cancelled_assessment_says_who_and_why(gristmill, psql):
    """The second call is refused: it is cancelled already."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")

    assert gristmill("cancel", "a-1", "--reason", "not wanted")[0] == 0
    code, _, said = gristmill("cancel", "a-1")

    assert (code, said) == (1, "gristmill: assessment 'a-1' is cancelled already")
    assert as_json(gristmill, "audit", "a-1")[-1]["change_reason"] == "not wanted"


def test_an_import_shows_what_it_imported_and_what_it_refused(gristmill, tmp_path):
    """The refused entries go into a file, so that the source can be corrected."""
    lines = [
        {"assessment_id": "old-1", "server_name": "s", "status": "completed", "created_at": "2026-01-01T00:00:00Z"},
        {"assessment_id": "old-2", "status": "lost", "created_at": "2026-01-01T00:00:00Z"},
    ]
    Path(tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, lines)))

    code, output, said = gristmill("import", "old.jsonl", "--refused", "refused.jsonl")

    assert code == 1
    assert [line.split() for line in output.splitlines()[:5]] == [
        ["WHAT", "ENTRIES"],
        ["read", "2"],
        ["imported", "as", "completed", "1"],
        ["there", "already", "0"],
        ["refused", "1"],
    ]
    assert "1 ended more than 30 days ago: the next cleanup deletes them" in said
    [refused] = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert (refused["position"], refused["assessment_id"]) == (2, "old-2")


def test_statistics_are_printed_and_drawn(gristmill, psql, tmp_path):
    """Counts, durations and reasons are printed. The plot is valid SVG with a bar per hour and state."""
    for name in ("good", "bad"):
        psql.execute('SELECT assessments.create_assessment(%s, \'{"assessmentType": "llm_rubric"}\')', [name])
        psql.execute("SELECT assessments.update_assessment_state(%s, 'processing', 1)", [name])
    psql.execute("SELECT assessments.update_assessment_state('good', 'completed', 2)")
    psql.execute("SELECT assessments.update_assessment_state('bad', 'failed', 2, p_error_message => 'a <b> & c 17')")

    code, shown, _ = gristmill("stats", "--since", "1h", "--plot", "hours.svg")

    assert code == 0
    for words in ("completed", "failed", "llm_rubric", "a <b> & c N"):
        assert words in shown
    drawing = ET.parse(tmp_path / "hours.svg").getroot()  # noqa: S314 - our own
    titles = {title.text for title in drawing.iter("{http://www.w3.org/2000/svg}title")}
    assert titles == {"1 completed", "1 failed"}
    assert "1 × a <b> & c N" in {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}


def test_statistics_of_nothing_are_no_error(gristmill, tmp_path):
    """A fresh system has a report too."""
    assert gristmill("stats", "--plot", "hours.svg")[0] == 0
    assert ET.parse(tmp_path / "hours.svg").getroot() is not None  # noqa: S314 - our own
