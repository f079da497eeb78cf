"""What people type and what they read: ages, times, payloads, durations."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.values import format_duration, json_default, parse_age, parse_payload, parse_time
from workers.runtime.refusals import Kind, Refusal


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30s", timedelta(seconds=30)),
        ("10m", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_an_age_is_a_number_with_a_unit(text: str, span: timedelta) -> None:
    """The filters of `jobs` read ages as people write them."""
    assert parse_age(text) == span


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "1.5h", "10 minutes", "5x", "9999999d"])
def test_any_other_age_is_refused_with_the_rule_and_the_value(text: str) -> None:
    """One line has the rule and the given value."""
    with pytest.raises(Refusal, match="age must be a number with s, m, h, d or w") as refused:
        parse_age(text)

    assert repr(text) in str(refused.value)
    assert refused.value.kind is Kind.INVALID


@pytest.fixture
def berlin(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "said"),
    [("2027-03-28T02:30", "time does not exist in this machine's zone"), ("2027-10-31T02:30", "time exists twice")],
)
def test_a_local_time_that_a_clock_change_makes_unclear_is_refused(text: str, said: str) -> None:
    """No job becomes due an hour early without notice. With an offset the same time is accepted."""
    with pytest.raises(Refusal, match=said) as refused:
        parse_time(text)

    assert "give an offset, for example 2030-01-31T08:00+01:00" in str(refused.value)
    assert parse_time(f"{text}+01:00") == datetime.fromisoformat(f"{text}+01:00")
    assert parse_time(text.replace("T02", "T04")).utcoffset() is not None


def test_a_time_without_an_offset_is_this_machine_s() -> None:
    """A person means the local clock; an offset in the text comes first."""
    local = parse_time("2030-01-31T08:00")

    assert local.tzinfo is not None
    assert local == datetime(2030, 1, 31, 8).astimezone()
    assert parse_time("2030-01-31T08:00+02:00") == datetime(2030, 1, 31, 6, tzinfo=UTC)


def test_a_word_is_not_a_time() -> None:
    """The line has the format, with an example."""
    with pytest.raises(Refusal, match=r"time must be ISO 8601, for example 2030-01-31T08:00, got 'tomorrow'"):
        parse_time("tomorrow")


def test_a_payload_is_read_from_the_argument_or_from_a_file(tmp_path) -> None:
    """`@FILE` is for payloads that are too long or too private for a command line."""
    file = tmp_path / "payload.json"
    file.write_text('{"prompt": "…"}', encoding="utf-8")

    assert parse_payload('{"prompt": "…"}') == parse_payload(f"@{file}") == {"prompt": "…"}


def test_invalid_json_is_refused_with_the_place_and_without_the_payload() -> None:
    """The place is enough to correct it, and the payload may be private."""
    with pytest.raises(Refusal) as refused:
        parse_payload('{"token": "tell-nobody",}')

    assert "payload is not JSON" in str(refused.value)
    assert "at column" in str(refused.value)
    assert "tell-nobody" not in str(refused.value)


@pytest.mark.parametrize("text", ["[1]", "null", '"text"', "7"])
def test_a_payload_must_be_an_object(text: str) -> None:
    """The fields of a payload are columns, so a payload is an object."""
    with pytest.raises(Refusal, match="payload must be a JSON object"):
        parse_payload(text)


def test_a_missing_payload_file_is_named(tmp_path) -> None:
    """One line has the file and the reason of the operating system."""
    with pytest.raises(Refusal, match="cannot be read: No such file or directory"):
        parse_payload(f"@{tmp_path / 'missing.json'}")


def test_an_endlessly_nested_payload_is_refused() -> None:
    """No input causes a traceback."""
    with pytest.raises(Refusal, match="nested too deeply"):
        parse_payload("[" * 100_000)


@given(st.text(max_size=40).filter(lambda text: not text.startswith("@")))
def test_every_text_is_an_object_or_refused(text: str) -> None:
    """No text causes another error than a refusal."""
    with suppress(Refusal):
        assert isinstance(parse_payload(text), dict)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0304, "30 ms"),
        (4.25, "4.2 s"),
        (42, "42 s"),
        (180, "3 min"),
        (18_000, "5 h"),
        (1_036_800, "12 d"),
    ],
)
def test_a_duration_is_told_in_its_largest_fitting_unit(seconds: float, text: str) -> None:
    """Two digits are enough for a person."""
    assert format_duration(timedelta(seconds=seconds)) == text


def test_json_keeps_times_durations_and_ids() -> None:
    """Scripts get ISO 8601 in UTC, seconds and plain text."""
    values = {"at": datetime(2030, 1, 1, tzinfo=UTC), "for": timedelta(seconds=1.5), "id": UUID(int=7)}

    assert json.loads(json.dumps(values, default=json_default)) == {
        "at": "2030-01-01T00:00:00+00:00",
        "for": 1.5,
        "id": "00000000-0000-0000-0000-000000000007",
    }
