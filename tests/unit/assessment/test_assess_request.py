"""What an assessment is asked: one clear line for whatever is wrong, at every door alike."""

import pytest

from workers.assessment.registry import options_of
from workers.assessment.request import read
from workers.runtime.handler.errors import Permanent

SEED = {
    "serverName": "io.github.acme/files",
    "assessmentType": "llm_rubric",
    "options": {"criteria": [{"name": "clarity"}], "content": "a server"},
    "timestamp": "2026-05-01T12:00:00Z",
    "source": "event-bus",
}
CLARITY = {"name": "clarity"}


def refusal(**changes):
    with pytest.raises(Permanent) as raised:
        options_of(read({**SEED, **changes}))
    return str(raised.value)


def test_the_documented_request_is_read():
    """Every member of the seed, by its name there."""
    request = read(SEED)

    assert (request.server_name, request.assessment_type, request.source) == (
        "io.github.acme/files",
        "llm_rubric",
        "event-bus",
    )
    assert request.timestamp is not None
    assert request.timestamp.year == 2026


def test_members_of_others_are_kept():
    """The audit's changed_by lives in the same column, and so may anything else."""
    request = read({**SEED, "changed_by": "importer", "correlation": {"id": 7}})

    assert request.model_extra == {"changed_by": "importer", "correlation": {"id": 7}}


def test_a_name_and_a_type_are_enough_for_the_request_itself():
    """What options a type needs is the type's business."""
    assert read({"serverName": "s", "assessmentType": "composite"}).options == {}


def test_an_unknown_type_names_the_known_ones():
    """So that a typing error is mended without reading the source."""
    line = refusal(assessmentType="vibes")

    assert line.startswith("assessmentType must be one of composite, llm_rubric, mcp_server")
    assert line.endswith(", got 'vibes'")


@pytest.mark.parametrize("data", [None, [], "text", 7])
def test_what_is_no_object_is_refused_by_name(data):
    """A row written in SQL may hold any JSON."""
    with pytest.raises(Permanent, match=r"^request_data must be a valid dictionary .*, got "):
        read(data)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"serverName": ""}, "serverName must have at least 1 character, got ''"),
        ({"serverName": 7}, "serverName must be a valid string, got 7"),
        ({"options": []}, "options must be a valid dictionary, got []"),
        ({"timestamp": "soon"}, "timestamp must be a valid datetime or date, input is too short, got 'soon'"),
    ],
)
def test_bad_request_names_field_rule_and_value(changes, line):
    """One line, whichever member is wrong."""
    assert refusal(**changes) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"content": "x"}, "options.criteria is required, got nothing"),
        ({"criteria": [CLARITY]}, "options.content is required, got nothing"),
        (
            {"criteria": [], "content": "x"},
            "options.criteria must have at least 1 item, got []",
        ),
        ({"criteria": [CLARITY], "content": " "}, "must not be empty, got ' '"),
        ({"criteria": [CLARITY], "content": {}}, "must not be empty, got {}"),
        ({"criteria": [CLARITY], "content": "x" * 60_001}, "must have at most 60,000 bytes as JSON, got 60,003"),
        (
            {"critera": [], "criteria": [CLARITY], "content": "x"},
            "options.critera is none of content, criteria, model, separately, task, got []",
        ),
        (
            {"criteria": [{"name": "a", "weight": 0}], "content": "x"},
            "options.criteria.0.weight must be greater than or equal to 0.01, got 0",
        ),
        ({"criteria": [{"name": "a", "weight": float("nan")}], "content": "x"}, "options.criteria.0.weight"),
        (
            {"criteria": [{"name": "a", "wieght": 1}], "content": "x"},
            "options.criteria.0.wieght is not a member here, got 1",
        ),
        (
            {"criteria": [{"name": "a", "scale": {"lowest": 5, "highest": 1}}], "content": "x"},
            "options.criteria.0.scale must ascend, got lowest 5 and highest 1",
        ),
        (
            {"criteria": [CLARITY, {"name": " Clarity"}], "content": "x"},
            "options.criteria must name each criterion once, got 'clarity' twice",
        ),
        ({"criteria": [CLARITY], "content": "x", "model": "no such\nmodel"}, "options.model must match pattern"),
    ],
)
def test_bad_options_name_field_rule_and_value(options, line):
    """The path leads from options to the member, however deep."""
    assert line in refusal(options=options)


def test_a_refusal_never_quotes_a_whole_payload():
    """A line that a person reads, and that a log may keep."""
    line = refusal(options={"criteria": "x" * 5_000, "content": "y"})

    assert len(line) < 300
    assert "\n" not in line


def test_deep_nesting_is_refused_and_does_not_break_the_worker():
    """JSON may be nested further than Python counts."""
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"d": deep}

    assert "must be nested at most 64 levels deep" in refusal(options={"criteria": [CLARITY], "content": deep})
