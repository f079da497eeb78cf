"""Within a run a request is tried again before it counts as failed."""

from datetime import timedelta

import pytest

from workers.longrun.retrying import Retries, wait_before_retry, with_retries
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable, Unavailable

RETRIES = Retries(attempts=3, base=timedelta(milliseconds=1), ceiling=timedelta(milliseconds=5))


class Request:
    """A request that fails with these errors, one per attempt, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.sent = 0

    async def send(self) -> str:
        self.sent += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


async def test_request_that_fails_twice_is_sent_a_third_time() -> None:
    """A short outage costs no attempt of the job."""
    request = Request(Retryable("HTTP 502"), KeyError("odd"))

    assert await with_retries(request.send, RETRIES) == "answer"
    assert request.sent == 3


async def test_last_error_is_raised() -> None:
    """The last error is raised unchanged."""
    request = Request(Retryable("first"), Retryable("second"), Retryable("third"), Retryable("fourth"))

    with pytest.raises(Retryable, match="third"):
        await with_retries(request.send, RETRIES)


@pytest.mark.parametrize(
    "error",
    [
        Permanent("no"),
        RateLimited("slow down", delay=timedelta(seconds=1)),
        Unavailable("gone", certain=True, delay=timedelta(minutes=1)),
        Unavailable("gone", paused=True, delay=timedelta(minutes=1)),
    ],
)
async def test_error_that_a_short_wait_cannot_resolve_is_raised_at_once(error: Exception) -> None:
    """The job is snoozed, so that it does not occupy a slot."""
    request = Request(error)

    with pytest.raises(type(error)):
        await with_retries(request.send, RETRIES)

    assert request.sent == 1


def test_wait_is_at_least_what_the_provider_asks_for() -> None:
    """This holds up to the longest wait."""
    asked = Unavailable("busy", certain=True, delay=timedelta(milliseconds=4))

    assert wait_before_retry(1, asked, RETRIES) >= timedelta(milliseconds=4)
