"""A server with quotas, in a process of its own: ``llmock``, and its own log of every request."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

START_SECONDS = 60.0
MINUTE = 60.0
ANSWERED, REFUSED = 200, 429
# A quota refuses a request because of its minute; anything else that is refused is not the quota's.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as the server saw it. ``at`` is in seconds of its clock, ``question`` tells questions apart.

    ``tokens`` is what it charges for a request that it answers: an estimate of the input and ``max_tokens``.
    """

    at: float
    status: int
    model: str
    question: str
    tokens: int


@dataclass(frozen=True, slots=True)
class QuotaServer:
    """A running server. Its buckets are full at the start and are filled evenly."""

    url: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def seen(self) -> list[Seen]:
        """Return every request so far, in order."""
        return [
            Seen(
                at=one["started_at"],
                status=one["status"],
                model=one["model"],
                question=one["fingerprint"],
                tokens=charged(one["body"]),
            )
            for one in self._call("GET", "requests")["requests"]
            if one["method"] == "POST"
        ]

    def reset(self) -> None:
        """Fill the buckets and forget every request."""
        self._call("POST", "reset")

    def _call(self, method: str, what: str) -> Any:
        request = Request(f"{self.url.removesuffix('/v1')}/_llmock/{what}", method=method)  # noqa: S310 - our own loopback
        with urlopen(request, timeout=30) as response:  # noqa: S310
            return json.loads(response.read())


def charged(body: Any) -> int:
    """Return the tokens that the server charges for a request: a fourth of its bytes, and what it may answer."""
    text = json.dumps(body, sort_keys=True)  # as our client sends it
    return max(1, len(text) // BYTES_PER_TOKEN) + (body.get("max_completion_tokens") or body.get("max_tokens") or 0)


@contextmanager
def quota_server(
    folder: Path, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
) -> Iterator[QuotaServer]:
    """Yield a server with these quotas; without one, it refuses nobody."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [str(Path(sys.executable).with_name("llmock")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", "warning"]
    command += ["--rpm", str(requests_per_minute)] if requests_per_minute else []
    command += ["--tpm", str(tokens_per_minute)] if tokens_per_minute else []
    log = folder / f"llmock-{port}.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        server = QuotaServer(f"http://127.0.0.1:{port}/v1", requests_per_minute, tokens_per_minute)
        try:
            _until_it_answers(server, process)
            yield server
        finally:
            process.kill()


def _until_it_answers(server: QuotaServer, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, f"llmock ended with status {process.returncode}"
        try:
            server.reset()
        except URLError:
            assert time.monotonic() < ends, f"llmock did not answer within {START_SECONDS:g} s"
            time.sleep(0.1)
        else:
            return


# ── what a log says ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How a quota was used. ``spans`` has for each call that did not fit beside those before it how long these took.

    Whoever always uses a whole minute's quota, and no more, has spans of a minute.
    """

    answered: int
    refused: int
    paid_twice: int
    spans: Sequence[float]
    seconds: float

    @property
    def refused_share(self) -> float:
        """The share of all calls that the server refused."""
        return self.refused / max(self.answered + self.refused, 1)

    @property
    def used_share(self) -> float | None:
        """The share of the quota that was used while more calls waited for it; None if it was never full."""
        return MINUTE * len(self.spans) / sum(self.spans) if self.spans else None


def use_of(log: Sequence[Seen], *, quota: int, tokens: bool = False) -> Use:
    """Return what a server's log says of the use of its quota of requests, or of ``tokens``, a minute. Pure."""
    answered = sorted((one for one in log if one.status == ANSWERED), key=lambda one: one.at)
    spans, first, held = [], 0, 0
    for one in answered:
        amount = one.tokens if tokens else 1
        held += amount
        while held > quota:
            before = answered[first]
            held -= before.tokens if tokens else 1
            first += 1
            if held <= quota:
                spans.append(one.at - before.at)
    asked = Counter(one.question for one in answered)
    return Use(
        answered=len(answered),
        refused=sum(one.status == REFUSED for one in log),
        paid_twice=sum(count - 1 for count in asked.values()),
        spans=spans,
        seconds=answered[-1].at - answered[0].at if answered else 0.0,
    )
