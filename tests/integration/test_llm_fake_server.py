"""The fake server as a process of its own, changed and read over HTTP."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url():
    """Start the server, yield the URL it prints, stop it."""
    command = [sys.executable, "-m", "tests.fakes.openai_server", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def call(url, body=None):
    request = Request(url, data=None if body is None else json.dumps(body).encode())  # noqa: S310 - our own loopback
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
    assert json.loads(answer["choices"][0]["message"]["content"])["criteria"][0]["name"] == "a"
    seen = call(f"{root}/__requests")
    assert (seen["calls"], seen["in_flight"], len(seen["requests"])) == (2, 0, 2)


def test_unknown_behaviour_is_refused(url):
    """A typo in a test is told, not ignored."""
    with pytest.raises(HTTPError) as refused:
        call(f"{url.removesuffix('/v1')}/__script", {"default": {"kind": "explode"}})

    assert refused.value.status == 422
    refused.value.close()
