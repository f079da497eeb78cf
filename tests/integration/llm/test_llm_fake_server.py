"""The fake server as a process of its own, changed and read over HTTP."""

import json
import subprocess
import sys
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from tests.support.fakes.openai_server import calls_of
from tests.support.paths import ROOT


@pytest.fixture
def url():
    """Start the server, yield the URL it prints, stop it."""
    command = [sys.executable, "-m", "tests.support.fakes.openai_server", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def call(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers=headers)  # noqa: S310 - our own loopback
    with urlopen(request, timeout=5) as response:  # noqa: S310 - likewise
        return json.load(response)


def test_scripted_over_http_and_counted(url):
    """A queue of behaviours, then the default; every chat call is counted, refused ones too."""
    root = url.removesuffix("/v1")
    call(f"{root}/__script", {"queue": [{"kind": "status", "status": 429, "retry_after": 2}]})
    question = {"model": "m", "messages": [{"role": "user", "content": '<criteria>\n[{"name": "a"}]\n</criteria>'}]}

    with pytest.raises(HTTPError) as refused:
        call(f"{url}/chat/completions", question)
    answer = call(f"{url}/chat/completions", question)

    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "2")
    refused.value.close()
    assert json.loads(answer["choices"][0]["message"]["content"])["criteria"].keys() == {"a"}
    seen = call(f"{root}/__requests")
    assert (seen["calls"], seen["in_flight"], len(seen["requests"])) == (2, 0, 2)


def test_unknown_behaviour_is_refused(url):
    """A typo in a test is told, not ignored."""
    with pytest.raises(HTTPError) as refused:
        call(f"{url.removesuffix('/v1')}/__script", {"default": {"kind": "explode"}})

    assert refused.value.status == 422
    refused.value.close()


def test_mix_is_drawn_by_weight_and_repeats_with_its_seed(url):
    """What a run of faults was answered can be had again; a behaviour of weight 0 never comes."""
    root = url.removesuffix("/v1")
    mix = [
        {"kind": "answer", "weight": 3},
        {"kind": "truncated", "weight": 1},
        {"kind": "hang", "weight": 0},
    ]
    drawn = []

    for _ in range(2):
        call(f"{root}/__reset", {})
        call(f"{root}/__script", {"mix": mix, "seed": 7})
        for _ in range(40):
            call(f"{url}/chat/completions", {"model": "m", "messages": []})
        drawn.append([entry["answer"] for entry in call(f"{root}/__ledger")["calls"]])

    assert drawn[0] == drawn[1]
    assert 0 < drawn[0].count("truncated") < drawn[0].count("answer") < 40


def test_ledger_names_the_job_of_every_call_and_whether_it_was_answered(url):
    """A refused call is one that was answered; a dropped one never ends; a call without a key names no job."""
    root = url.removesuffix("/v1")
    behaviours = [{"kind": "status", "status": 500}, {"kind": "disconnect"}]
    call(f"{root}/__script", {"queue": behaviours})
    job_id = uuid4()

    for key in (f"{job_id}-a", f"{job_id}-b", ""):
        with suppress(HTTPError, ConnectionError):
            call(f"{url}/chat/completions", {"model": "m", "messages": []}, **{"Idempotency-Key": key} if key else {})
    refused, dropped = calls_of(call(f"{root}/__ledger")["calls"])

    assert (refused.job_id, refused.key, refused.answer) == (job_id, f"{job_id}-a", "500")
    assert refused.ended_at is not None
    assert refused.ended_at >= refused.started_at
    assert (dropped.job_id, dropped.answer, dropped.ended_at) == (job_id, "disconnect", None)
