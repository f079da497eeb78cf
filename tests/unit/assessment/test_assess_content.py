"""What JSON may be kept: every door refuses the same things, with the place, the rule and the value."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from pydantic import ValidationError

from workers.assessment.assess import AssessRequest
from workers.assessment.request import read
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
def test_what_cannot_be_kept_is_told_by_place_rule_and_value(value, line):
    """In one line, however deep or long the value is."""
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
def test_what_json_has_is_kept(value):
    """Whether it is an object is the field's own rule."""
    keepable(value, name="r")


@pytest.mark.parametrize("extra", ["\ud800", float("inf"), b"x", nested(900)])
def test_a_request_with_such_a_value_is_refused_by_every_reader_of_requests(extra):
    """Also in members that mean nothing to us: they are kept with the rest."""
    with pytest.raises(Permanent, match=r"^request_data\.extra"):
        read({"serverName": "a", "assessmentType": "llm_rubric", "extra": extra})


@pytest.mark.parametrize("request_data", [[1], None, "x", 7, True, float("nan"), []])
def test_a_request_that_is_no_object_fails_in_one_line(request_data):
    """A service may insert one: the worker that reads it fails that job alone, and says why."""
    with pytest.raises(Permanent, match=r"^request_data ") as refused:
        read(request_data)

    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("assessment_id", ["", " \t", "a\ud800", "a\x00", "a\u200b", " a", "x" * 256])
def test_a_name_is_held_to_the_rule_of_names_at_the_door(assessment_id):
    """Before a row is written."""
    with pytest.raises(ValidationError, match=r"assessment_id\n.*must have 1 to 255 characters, without control"):
        AssessRequest(assessment_id=assessment_id, request_data={})


def test_a_name_with_half_a_character_can_be_printed():
    """Whoever must be told of it is told with an escape."""
    assert shown("a\ud800") == r"a\ud800"
    assert shown("x" * 300) == "x" * 255
