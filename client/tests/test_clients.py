"""What both clients do when the gateway or the way to it fails: at the gateway in memory and at broken transports."""

import asyncio
import io
import logging
import pickle
import traceback
import uuid
from functools import partial

import httpx2
import pytest
from gristmill_client import NotFound, NotPossible, RateLimited, Unauthenticated, Unavailable, UnexpectedAnswer
from gristmill_client.http import AsyncClient, Client, Transition, new_key
from gristmill_client.models import Outcome
from gristmill_client.testing import Gateway

STAGE = "demo.say"
KEY = "gm_" + "s3cret" * 5


@pytest.fixture
def gateway():
    gateway = Gateway()
    gateway.add_stage(STAGE)
    return gateway


@pytest.fixture
def client(gateway):
    with gateway.client() as client:
        yield client


def test_a_lost_answer_makes_no_second_job(gateway, client):
    """The repeat has the same key, also one that the client made."""
    gateway.lose_next(count=3)

    job = client.enqueue(STAGE, {"n": 1}, idempotency_key=new_key())

    assert not job.created
    assert [one.id for one in client.list_jobs()] == [job.id]


def test_without_a_key_a_lost_answer_is_told(gateway, client):
    gateway.lose_next()

    with pytest.raises(Unavailable) as caught:
        client.enqueue(STAGE, {"n": 1}, idempotency_key=None)

    assert caught.value.may_have_happened
    assert len(list(client.list_jobs())) == 1


def test_a_batch_whose_answer_was_lost_is_sent_again(gateway, client):
    gateway.lose_next()
    gateway.refuse_next(503)

    done = client.enqueue_many(STAGE, ({"payload": {"n": n}, "idempotency_key": f"k{n}"} for n in range(500)))

    assert len({one.id for one in done}) == 500
    assert len(list(client.list_jobs())) == 500


def test_an_upload_is_sent_again_from_its_beginning(gateway, client):
    gateway.refuse_next(503)
    file = io.BytesIO(b"a,b\n1,2\n")

    job = client.ingest(gateway.make_project(), file, type="task", idempotency_key="f")

    assert gateway.file_of(job.id) == b"a,b\n1,2\n"


class Pipe(io.RawIOBase):
    """A file that can be read once."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._content.readinto(buffer)


def test_a_file_that_can_be_read_once_is_not_sent_again_empty(gateway, client):
    project = gateway.make_project()
    gateway.refuse_next(503)
    with pytest.raises(Unavailable):
        client.ingest(project, Pipe(b"a\n1\n"), type="task", idempotency_key="f")

    job = client.ingest(project, Pipe(b"a\n1\n"), type="task", idempotency_key="f")
    assert gateway.file_of(job.id) == b"a\n1\n"


def test_a_cancel_whose_answer_was_lost_is_done(gateway, client):
    """Also with a version, which the repeat finds to be stale."""
    for version in (None, 1):
        job = client.enqueue(STAGE, {}, idempotency_key=None)
        gateway.lose_next()
        assert client.cancel(job.id, version=version).outcome is Outcome.CANCELLED


def test_a_limit_that_lasts_is_told_with_its_time(gateway):
    gateway.refuse_next(429, retry_after=60)

    with gateway.client(retry_seconds=1) as client, pytest.raises(RateLimited) as caught:
        client.count_jobs()

    assert caught.value.retry_after == 60


def test_a_revoked_key_ends_a_stream(gateway):
    api_key = gateway.make_key(tenant=gateway.tenant)
    with gateway.client(api_key) as client:
        client.enqueue(STAGE, {}, idempotency_key=None)
        events = client.follow_many(after="0")
        next(events)
        gateway.revoke_key(api_key)

        with pytest.raises(Unauthenticated):
            next(events)


@pytest.mark.parametrize("run", range(5))
def test_a_stream_that_is_cut_goes_on_without_loss(gateway, client, run):
    """Each transition once, wherever it is cut."""
    jobs = [client.enqueue(STAGE, {"n": n}, idempotency_key=None).id for n in range(20)]
    events, seen = client.follow_many(after="0"), []
    for nth, one in enumerate(events):
        seen.append(one.job_id)
        if nth % 7 == run:
            gateway.cut_streams()
        if nth % 5 == 0 and len(jobs) < 30:
            jobs.append(client.enqueue(STAGE, {}, idempotency_key=None).id)
        if len(seen) == 24:
            break
    events.close()

    assert seen == jobs[:24]


def test_a_job_is_followed_over_cuts(gateway, client):
    job = client.enqueue(STAGE, {}, idempotency_key=None)
    events = client.follow(job.id)
    found = [next(events)]
    gateway.cut_streams()
    gateway.start(job.id, progress=50)
    gateway.be_away(count=2)
    gateway.complete(job.id)
    found += [one for one in events if isinstance(one, Transition)]

    assert [one.version for one in found] == [1, 2, 3]


def test_a_cancelled_call_leaves_the_client_usable(gateway):
    """And asyncio's own cancellation reaches a wait at once."""

    async def scenario():
        async with gateway.async_client() as client:
            job = await client.enqueue(STAGE, {}, idempotency_key=None)
            waiting = asyncio.create_task(client.wait(job.id))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            async with asyncio.timeout(20):
                return await asyncio.gather(*(client.wait(job.id) for _ in range(20)), finish(client, job.id))

    async def finish(client, id_):
        await asyncio.sleep(0)
        gateway.complete(id_, {"said": "yes"})
        return await client.show(id_)

    assert {job.outcome for job in asyncio.run(scenario())} == {Outcome.COMPLETED}


# ── what stands between ──────────────────────────────────────────────────────────────────────────────────────────────


class Buffering(httpx2.BaseTransport):
    """A proxy that keeps events back until the read timeout, and lets everything else pass."""

    def __init__(self, inner, failure):
        self.inner, self.failure, self.streams = inner, failure, 0

    def handle_request(self, request):
        if request.url.path.endswith("/events"):
            self.streams += 1
            return self.failure(request)
        if "wait" in request.url.params:
            self.on_poll()
        return self.inner.handle_request(request)


class Silent(httpx2.SyncByteStream):
    def __iter__(self):
        raise httpx2.ReadTimeout("nothing came")
        yield


@pytest.mark.parametrize(
    "failure",
    [
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Silent()),
        lambda _: httpx2.Response(200, html="<p>Please log in"),
    ],
    ids=["no event comes", "it is no stream"],
)
def test_a_wait_polls_where_events_are_kept_back(gateway, failure):
    """And does not try the stream again."""
    transport = Buffering(gateway.transport(), failure)
    with Client("http://gristmill.test", gateway.api_key, transport=transport) as client:
        for count in (1, 1):
            job = client.enqueue(STAGE, {}, idempotency_key=None)
            transport.on_poll = partial(gateway.complete, job.id)
            assert client.wait(job.id).outcome is Outcome.COMPLETED
            assert transport.streams == count


def test_a_wait_goes_on_after_a_broken_stream(gateway):
    """By a poll; the next round may stream again."""

    class Broken(httpx2.SyncByteStream):
        def __iter__(self):
            yield b"retry: 1\n:\n\n"
            raise httpx2.ReadError("cut")

    headers = {"content-type": "text/event-stream"}
    transport = Buffering(gateway.transport(), lambda _: httpx2.Response(200, headers=headers, stream=Broken()))
    with Client("http://gristmill.test", gateway.api_key, transport=transport) as client:
        job = client.enqueue(STAGE, {}, idempotency_key=None)
        transport.on_poll = partial(gateway.complete, job.id)

        assert client.wait(job.id).outcome is Outcome.COMPLETED
        assert transport.streams == 1


def answering(response):
    return Client("http://x", KEY, transport=httpx2.MockTransport(lambda _: response), retry_seconds=0)


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(200, html="<p>Please log in"),
        httpx2.Response(302, headers={"Location": "https://login.example"}),
        httpx2.Response(200, json={"id": "x"}),
        httpx2.Response(200, json=[]),
        httpx2.Response(200),
    ],
)
def test_an_answer_of_something_else_is_one_line(response):
    id_ = uuid.uuid4()
    with answering(response) as client:
        for call in (client.show, client.cancel, lambda id_: client.request("GET", f"/{id_}", uuid.UUID)):
            with pytest.raises(UnexpectedAnswer) as caught:
                call(id_)
            assert "\n" not in str(caught.value)


def test_a_result_of_another_shape_is_told(gateway, client):
    from pydantic import BaseModel

    class Said(BaseModel):
        text: int

    job = client.enqueue(STAGE, {}, idempotency_key=None)
    gateway.complete(job.id, {"text": "no number"})

    with pytest.raises(UnexpectedAnswer) as caught:
        client.result(job.id, Said)
    assert "does not fit Said: text:" in str(caught.value)
    assert "no number" not in str(caught.value)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_the_key_is_shown_nowhere(make, caplog):
    """Not in a repr, an error, its cause, a traceback with its values, or a log."""
    caplog.set_level(logging.DEBUG)
    client = make("http://127.0.0.1:9", KEY, retry_seconds=0)
    shown = [repr(client), str(client), repr(vars(client)), repr(vars(client._http)), repr(client._http.headers)]
    try:
        found = client.count_jobs()
        asyncio.run(found)
    except Unavailable as error:
        shown += ["".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())]
        shown += [repr(error), repr(error.__cause__), repr(vars(error))]
    shown.append(caplog.text)

    assert all(KEY not in one for one in shown)
    assert "gateway cannot be reached" in shown[-3] + shown[-4]


@pytest.mark.parametrize(
    ("url", "api_key"),
    [
        ("gristmill.example", KEY),
        ("ftp://gristmill.example", KEY),
        ("http://", KEY),
        (f"http://me:{KEY}@gristmill.example", KEY),
        ("http://gristmill.example?key=1", KEY),
        ("http://gristmill.example", ""),
        ("http://gristmill.example", KEY + "\n"),
        ("http://gristmill.example", f"{KEY} {KEY}"),
    ],
)
def test_a_wrong_address_or_key_is_told_without_showing_it(url, api_key):
    with pytest.raises(NotPossible) as caught:
        Client(url, api_key)

    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_redirect_is_not_followed(gateway):
    """The key goes to nobody else."""
    asked = []

    def redirect(request):
        asked.append(request.url.host)
        return httpx2.Response(307, headers={"Location": "https://elsewhere.example/"})

    with Client("http://x", KEY, transport=httpx2.MockTransport(redirect)) as client, pytest.raises(UnexpectedAnswer):
        client.count_jobs()
    assert asked == ["x"]


def test_errors_can_be_sent_to_another_process():
    """As a pool of processes does with what its workers raise."""
    error = NotFound("nothing", field="job_id", status=404, request_id="r")
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (type(copied), str(copied), copied.field, copied.request_id) == (NotFound, "nothing", "job_id", "r")
