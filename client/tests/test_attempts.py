"""What is sent again, when, and what is not: without a network, by the plans themselves."""

import itertools

import httpx2
import pytest
from gristmill_client import Failed, NotFound, RateLimited, Refused, Unavailable
from gristmill_client.http.attempts import MAX_BACKOFF_SECONDS, Core, answered, delay_after
from gristmill_client.http.problems import error_of, retry_after_of
from gristmill_client.http.steps import Pause, Request, Send

GET = Request(method="GET", path="/x")
POST = Request(method="POST", path="/x", is_repeatable=False)
WITH_KEY = Request(method="POST", path="/x")


def problem(status, kind, **headers):
    document = {"type": kind, "detail": "a line", "status": status, "errors": [], "request_id": "r1"}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json=document, headers={"content-type": "application/problem+json", **headers})


def lost():
    return httpx2.ReadError("lost", request=httpx2.Request("POST", "http://x"))


def away():
    return httpx2.ConnectError("away", request=httpx2.Request("POST", "http://x"))


BUSY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"


class Clock:
    """Time passes only in pauses."""

    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def run(self, request, answers, *, retry_seconds=60.0, draw=1.0):
        """Run the plan of a request with these answers; return its response, and how often it was sent."""
        core = Core(retry_seconds=retry_seconds, clock=lambda: self.now, draw=lambda: draw)
        plan, sent, given = answered(core, request), 0, iter(answers)
        step = next(plan)
        try:
            while True:
                if isinstance(step, Pause):
                    self.now += step.seconds
                    self.pauses.append(step.seconds)
                    step = plan.send(None)
                    continue
                assert isinstance(step, Send)
                sent += 1
                answer = next(given)
                step = plan.throw(answer) if isinstance(answer, Exception) else plan.send(answer)
        except StopIteration as done:
            return done.value, sent


@pytest.fixture
def clock():
    return Clock()


OK = httpx2.Response(200)


@pytest.mark.parametrize("request_", [GET, WITH_KEY], ids=["read", "with a key"])
@pytest.mark.parametrize(
    "failure",
    [
        lost(),
        away(),
        problem(503, "/problems/unavailable"),
        problem(503, BUSY),
        problem(429, "/problems/too-many"),
        problem(500, "/problems/internal"),
        problem(408, "/problems/too-slow"),
        httpx2.Response(502, text="<html>"),
        httpx2.Response(504),
    ],
    ids=str,
)
def test_a_repeatable_request_is_sent_again(clock, request_, failure):
    assert clock.run(request_, [failure, failure, OK]) == (OK, 3)


@pytest.mark.parametrize(
    "failure", [lost(), problem(503, "/problems/unavailable"), problem(500, "/problems/internal"), httpx2.Response(504)]
)
def test_what_may_have_happened_is_not_done_twice(clock, failure):
    """Without a key; the error says so."""
    with pytest.raises((Unavailable, Failed)) as caught:
        clock.run(POST, [failure])

    assert caught.value.may_have_happened


@pytest.mark.parametrize("failure", [away(), problem(503, BUSY), problem(429, "/problems/too-many")], ids=str)
def test_what_was_not_done_is_sent_again_without_a_key(clock, failure):
    assert clock.run(POST, [failure, OK]) == (OK, 2)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (problem(422, "/problems/invalid"), Refused),
        (problem(404, "/problems/not-found"), NotFound),
        (problem(502, "/problems/failed"), Failed),
        (httpx2.Response(302), None),
    ],
)
def test_what_would_come_again_is_not_asked_again(clock, failure, kind):
    if kind is None:
        assert clock.run(GET, [failure]) == (failure, 1)
        return
    with pytest.raises(kind) as caught:
        clock.run(GET, [failure])
    assert caught.value.request_id == "r1"


def test_a_body_that_can_be_read_once_is_sent_once(clock):
    with pytest.raises(RateLimited):
        clock.run(Request(method="POST", path="/x", is_once=True), [problem(429, "/problems/too-many")])


def test_the_last_error_is_raised_when_the_time_is_up(clock):
    """Never later than the deadline: a pause that would pass it is not begun."""
    with pytest.raises(Unavailable):
        clock.run(GET, itertools.repeat(lost()), retry_seconds=60.0)

    assert clock.now <= 60.0
    assert len(clock.pauses) > 5


def test_pauses_double_up_to_a_bound(clock):
    with pytest.raises(Unavailable):
        clock.run(GET, itertools.repeat(away()), retry_seconds=100.0)

    assert clock.pauses[:7] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0]
    assert delay_after(10**6, retry_after=None, draw=lambda: 1.0) == MAX_BACKOFF_SECONDS


def test_pauses_are_random_from_nothing(clock):
    assert delay_after(5, retry_after=None, draw=lambda: 0.0) == 0.0
    assert delay_after(5, retry_after=3.0, draw=lambda: 0.0) == 3.0


def test_retry_after_is_waited_for(clock):
    clock.run(GET, [problem(429, "/problems/too-many", retry_after="7"), OK], draw=0.0)

    assert clock.pauses == [7.0]


def test_a_retry_after_beyond_the_deadline_is_told(clock):
    with pytest.raises(RateLimited) as caught:
        clock.run(GET, [problem(429, "/problems/too-many", retry_after="3600")])

    assert (caught.value.retry_after, clock.pauses) == (3600.0, [])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0.0),
        ("Wed, 01 Jan 2020 00:00:00", 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("9" * 40, None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 24 * 3600.0),
    ],
)
def test_retry_after_is_read_with_care(value, seconds):
    assert retry_after_of(httpx2.Response(503, headers={"Retry-After": value})) == seconds


def test_a_problem_is_read_with_its_fields():
    document = {
        "type": "/problems/invalid",
        "detail": "priority must be\n less",
        "errors": [{"field": "3.priority", "rule": "must be less", "value": "11", "remedy": "give less"}, 7],
        "request_id": "r1",
    }
    error = error_of(httpx2.Response(422, json=document, headers={"content-type": "application/problem+json"}))

    assert str(error) == "priority must be less"
    assert (error.position, error.field, error.rule, error.value) == (3, "priority", "must be less", "11")
    assert (error.remedy, error.code, error.request_id) == ("give less", "invalid", "r1")


@pytest.mark.parametrize("content", [b"<html>502</html>", b"{", b"[]", b"null", b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize("kind", ["text/html", "application/problem+json"])
def test_what_a_proxy_answers_is_one_line(content, kind):
    error = error_of(httpx2.Response(502, content=content, headers={"content-type": kind}))

    assert isinstance(error, Unavailable)
    assert str(error) == "the server answered 502 (Bad Gateway) without a problem document"
