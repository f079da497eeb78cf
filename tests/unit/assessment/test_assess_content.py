"""Which JSON can be stored: every door refuses the same values, with place, rule and value."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from pydantic import ValidationError

from workers.assessment.assess import AssessRequest
from workers.assessment.request import parse_request
from workers.runtime.bounds import MAX_JSON_DEPTH
from workers.runtime.handler.documents import NUL, Unkeepable, keepable, shown
from workers.runtime.handler.errors import Permanent


def nested(levels: int, inner: object = 1) -> object:
    for _ in range(levels):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (
            {"a": {"b": ["\ud800"]}},
            r"r\.a\.b\.0 must be text without half a character \(a lone surrogate\), got '.ud800'",
        ),
        ({"\udfff": 1}, r"a name in r must be text without half a character \(a lone surrogate\), got '.udfff'"),
        ({"a": float("nan")}, r"r\.a must be a finite number within ±1e308, got nan"),
        ({"a": -math.inf}, r"r\.a must be a finite number within ±1e308, got -inf"),
        ({"a": Decimal("NaN")}, r"r\.a must be a finite number within ±1e308, got Decimal\('NaN'\)"),
        ({"a": 1.1e308}, r"r\.a must be a finite number within ±1e308, got 1.1e\+308"),
        ({"a": 10**5000}, r"r\.a must be a finite number within ±1e308, got an integer of 16610 bits"),
        ({"a": b"\xff"}, r"r\.a must be a value that JSON has, got b'.xff'"),
        ({1: 2}, "r must have texts as names, got 1"),
        ({"a": "\x00"}, NUL),
        ({"\x00": 1}, NUL),
        (nested(MAX_JSON_DEPTH, {}), rf"r\.a\.a\.a\.….* must be nested at most {MAX_JSON_DEPTH} levels deep, got more"),
        (nested(100_000), "levels deep"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_with_place_rule_and_value(value, line):
    """The message is one line, also for a deep or long value."""
    with pytest.raises(Unkeepable, match=line) as refused:
        keepable(value, name="r")

    assert len(str(refused.value).splitlines()) == 1
    str(refused.value).encode()


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, True, None, "ü", "\N{GRINNING FACE}", 1e308, -1e308], "": {}},
        {"t": datetime(2026, 1, 1, tzinfo=UTC), "id": UUID(int=1)},
        nested(MAX_JSON_DEPTH - 1, {}),
        None,
        [],
    ],
)
def test_valid_json_is_accepted(value):
    """Any JSON value is accepted here. The rule that it must be an object belongs to the field."""
    keepable(value, name="r")


@pytest.mark.parametrize("extra", ["\ud800", float("inf"), b"x", nested(900)])
def test_a_request_with_such_a_value_is_refused_by_every_reader_of_requests(extra):
    """Unknown members are stored too, so they are checked too."""
    with pytest.raises(Permanent, match=r"^request_data\.extra"):
        parse_request({"serverName": "a", "assessmentType": "llm_rubric", "extra": extra})


@pytest.mark.parametrize("request_data", [[1], None, "x", 7, True, float("nan"), []])
def test_a_request_that_is_no_object_fails_in_one_line(request_data):
    """A service can insert such a row in SQL. The worker fails only that job, with the reason."""
    with pytest.raises(Permanent, match=r"^request_data ") as refused:
        parse_request(request_data)

    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("assessment_id", ["", " \t", "a\ud800", "a\x00", "a\u200b", " a", "x" * 256])
def test_a_name_is_held_to_the_rule_of_names_at_the_door(assessment_id):
    """The name is checked before a row is written."""
    with pytest.raises(ValidationError, match=r"assessment_id\n.*must have 1 to 255 characters, without control"):
        AssessRequest(assessment_id=assessment_id, request_data={})


def test_a_name_with_half_a_character_can_be_printed():
    """The message shows a lone surrogate as an escape."""
    assert shown("a\ud800") == r"a\ud800"
    assert shown("x" * 300) == "x" * 255
