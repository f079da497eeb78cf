"""What follows from an answer or an error, and what is kept of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from workers.notifications.attempts import (
    MAX_ANSWER_CHARACTERS,
    MAX_ATTEMPTS_KEPT,
    Verdict,
    add_attempt,
    judge_answer,
    judge_error,
    note_answer,
    note_error,
)
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.outside import ForbiddenDestination, HttpAnswer

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *((status, Verdict.DELIVERED) for status in (200, 201, 202, 204, 299)),
        *((status, Verdict.RETRY) for status in (100, 199, 300, 301, 302, 304, 307, 308)),
        *((status, Verdict.RETRY) for status in (400, 401, 404, 408, 409, 418, 429)),
        *((status, Verdict.RETRY) for status in (500, 502, 503, 504, 599)),
        (410, Verdict.GONE),
    ],
)
def test_only_2xx_is_a_success(status, verdict):
    """A redirect is a failure, and 410 ends everything."""
    assert judge_answer(status) is verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ForbiddenDestination("private"), Verdict.REFUSED),
        (Permanent("cannot be written"), Verdict.REFUSED),
        (Retryable("host cannot be found"), Verdict.RETRY),
    ],
)
def test_an_address_inside_is_final_and_a_lost_name_is_not(error, verdict):
    """A name that is not found may be found later."""
    assert judge_error(error) is verdict


def test_of_an_answer_its_start_is_kept_as_text():
    """Without what a terminal or Postgres could not take."""
    body = b"no\x00\x1b[31m \xff" + b"x" * 2_000
    answer = HttpAnswer(status=500, headers={}, body=body, url="http://a.example", address="192.0.2.1")

    kept = note_answer(answer, at=NOW, milliseconds=12).as_json()

    assert kept["status"] == 500
    assert kept["address"] == "192.0.2.1"
    assert kept["milliseconds"] == 12
    assert len(kept["answer"]) == MAX_ANSWER_CHARACTERS
    assert not {"\x00", "\x1b"} & set(kept["answer"])


def test_the_log_keeps_the_newest_attempts():
    """It does not grow with every re-send."""
    log: list[dict[str, Any]] = []
    for nth in range(MAX_ATTEMPTS_KEPT + 5):
        log = add_attempt(log, note_error(Retryable(f"error {nth}"), at=NOW, milliseconds=1))

    assert len(log) == MAX_ATTEMPTS_KEPT
    assert [log[0]["error"], log[-1]["error"]] == ["error 5", f"error {MAX_ATTEMPTS_KEPT + 4}"]
