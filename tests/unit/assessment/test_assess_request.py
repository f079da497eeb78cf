"""The request of an assessment: one clear line for each error, the same at every door."""

import pytest

from workers.assessment.registry import options_of
from workers.assessment.request import parse_request
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
        options_of(parse_request({**SEED, **changes}))
    return str(raised.value)


def test_the_documented_request_is_read():
    """Every member of the seed's request is read."""
    request = parse_request(SEED)

    assert (request.server_name, request.assessment_type, request.source) == (
        "io.github.acme/files",
        "llm_rubric",
        "event-bus",
    )
    assert request.timestamp is not None
    assert request.timestamp.year == 2026


def test_members_of_others_are_kept():
    """Services store other members in the same column, for example changed_by."""
    request = parse_request({**SEED, "changed_by": "importer", "correlation": {"id": 7}})

    assert request.model_extra == {"changed_by": "importer", "correlation": {"id": 7}}


def test_a_name_and_a_type_are_enough_for_the_request_itself():
    """The options are checked by the type, not by the request."""
    assert parse_request({"serverName": "s", "assessmentType": "composite"}).options == {}


def test_an_unknown_type_names_the_known_ones():
    """The message helps to correct a typing error."""
    line = refusal(assessmentType="vibes")

    assert line.startswith("assessmentType must be one of composite, llm_rubric, mcp_server")
    assert line.endswith(", got 'vibes'")


@pytest.mark.parametrize("data", [None, [], "text", 7])
def test_what_is_no_object_is_refused_by_name(data):
    """A row written in SQL can hold any JSON value."""
    with pytest.raises(Permanent, match=r"^request_data must be a valid dictionary .*, got "):
        parse_request(data)


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
    """The message is one line for every member."""
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
    """The path begins with options and ends with the member."""
    assert line in refusal(options=options)


def test_a_refusal_never_quotes_a_whole_payload():
    """The line is short enough for a person and for a log."""
    line = refusal(options={"criteria": "x" * 5_000, "content": "y"})

    assert len(line) < 300
    assert "\n" not in line


def test_deep_nesting_is_refused_and_does_not_break_the_worker():
    """JSON can be nested deeper than Python's recursion limit."""
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"d": deep}

    assert "must be nested at most 64 levels deep" in refusal(options={"criteria": [CLARITY], "content": deep})
