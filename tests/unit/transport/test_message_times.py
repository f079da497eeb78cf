"""The times on which Celery acts are removed from a message before Celery reads them."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from workers.transport.consumer import DUE_HEADER, take_times


def message(**headers: Any) -> Any:
    return SimpleNamespace(headers=headers)


def test_an_eta_is_handed_to_the_door() -> None:
    sent = message(eta="2100-01-01T00:00:00+02:00", expires=None)

    assert take_times(sent) is None
    assert sent.headers == {"eta": None, "expires": None, DUE_HEADER: "2100-01-01T00:00:00+02:00"}


def test_a_time_without_an_offset_is_utc() -> None:
    sent = message(eta="2100-01-01T00:00:00")

    assert take_times(sent) is None
    assert sent.headers[DUE_HEADER] == "2100-01-01T00:00:00+00:00"


def test_a_message_that_expired_is_refused_with_its_time() -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)

    said = take_times(message(expires=past.isoformat()))

    assert said == f"message must be taken before it expires, got it after {past:%Y-%m-%d %H:%M:%S} UTC"


def test_a_message_that_was_taken_in_time_does_not_expire_any_more() -> None:
    sent = message(expires=(datetime.now(UTC) + timedelta(hours=1)).isoformat())

    assert take_times(sent) is None
    assert sent.headers["expires"] is None


@pytest.mark.parametrize("name", ["eta", "expires"])
def test_a_value_that_is_not_a_time_is_refused(name: str) -> None:
    assert take_times(message(**{name: 5})) == f"{name} must be a time in ISO 8601, got 5"
    with pytest.raises(ValueError, match="isoformat"):
        take_times(message(**{name: "tomorrow"}))


@pytest.mark.parametrize("headers", [None, [], {}])
def test_a_message_without_headers_has_no_times(headers: Any) -> None:
    assert take_times(SimpleNamespace(headers=headers)) is None
