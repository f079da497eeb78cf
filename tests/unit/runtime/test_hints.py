"""Reading notifications on ``gristmill_done``."""

from uuid import uuid4

import pytest

from workers.runtime.operate.hints import COMPLETE_BYTES, Hint, read_hint


def test_listed_jobs_are_told():
    """Each job is listed as id:version."""
    one, two = uuid4(), uuid4()

    assert read_hint(f"scoring.jobs {one}:3 {two}:12") == Hint("scoring.jobs", {one, two})


def test_where_no_job_is_listed_any_may_be_meant():
    """All followed jobs of that table must be read."""
    assert read_hint("scoring.jobs") == Hint("scoring.jobs", None)


def test_a_long_list_may_be_incomplete():
    """Jobs that did not fit are left out, so it may be any job."""
    listed = " ".join(f"{uuid4()}:1" for _ in range(COMPLETE_BYTES // 39 + 1))

    assert read_hint(f"scoring.jobs {listed}") == Hint("scoring.jobs", None)


@pytest.mark.parametrize("payload", ["", " ", "scoring.jobs nonsense", "scoring.jobs 1:2", "a b c"])
def test_what_is_not_ours_says_nothing(payload):
    """Every login may send on every channel."""
    assert read_hint(payload) is None
