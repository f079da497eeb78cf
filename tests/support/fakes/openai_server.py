"""A fake OpenAI-compatible server: it gives valid answers to rubrics, fails on request, and counts its calls.

In a test::

    with FakeOpenAI() as fake:
        fake.script(queue=[{"kind": "status", "status": 429, "retry_after": "2"}])
        ...  # talk to fake.url
        assert fake.calls == 2

Or as a process, which prints its URL: ``python -m tests.support.fakes.openai_server --port 0``. Over HTTP,
``POST /__script`` takes the same members as ``script``, ``GET /__requests`` returns ``snapshot``, ``GET /__ledger``
returns every chat call (``calls_of`` reads it), ``POST /__reset`` deletes all of it. Batches are in ``batches.py``.

A behaviour is a dictionary: ``kind`` (see ``KINDS``), ``delay_ms`` before the answer, and for ``status`` also
``status``, ``code``, ``message``, ``retry_after``, ``headers``; for ``says`` the message's ``content`` (or a whole
``message``), for ``choice`` members of the choice, for ``raw`` the ``body`` in base64, with ``status`` and ``headers``.
In a ``mix`` it may also have a ``weight``, by default 1. In ``rules`` it has ``about``: it answers every question with
this text. Rules are tried first.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Self
from uuid import UUID

from tests.chaos.evidence import Call
from tests.support.fakes import alignment
from tests.support.fakes.batches import BatchServer
from tests.support.fakes.embedder import Embedder

SHAPED = ("answer", "fenced", "think", "parts", "invalid", "malformed", "prose", "truncated", "empty")
REFUSED = (
    "says",
    "choice",
    "raw",
    "refusal",
    "filtered",
    "no_usage",
    "no_choices",
    "error_200",
    "html",
    "status",
    "hang",
    "drip",
    "disconnect",
)
KINDS = frozenset(SHAPED + REFUSED)
FORMATS = ("json_schema", "json_object", "text")
MAX_REMEMBERED_REQUESTS = 1_000
MEMBERS = frozenset(
    {"queue", "default", "mix", "seed", "formats", "models", "contexts", "reported_model", "embeddings", "rules"}
    | {"batches"}
)
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Entry:
    """One call in the ledger: its idempotency key, its answer (a status or a kind), and its times.

    ``ended_at`` is None if no complete answer was sent. ``body`` is the request's fingerprint. ``again`` is true if the
    request quotes an earlier answer to ask again. ``limit`` is how many tokens the answer may have.
    ``input_tokens`` and ``output_tokens`` are what the call costs; None if it costs nothing.
    """

    key: str | None
    started_at: float
    answer: str = "none"
    ended_at: float | None = None
    body: str = ""
    again: bool = False
    limit: int | None = None
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None

    def charge(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Note what ``answer`` costs, if it says that, and return it."""
        if usage := answer["usage"]:
            self.input_tokens, self.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        return answer


class Script:
    """The server's next behaviours and its calls so far. It is used on the server's loop; reads are thread-safe."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Restore the defaults and clear the counters. Calls in flight still count as in flight."""
        self.queue: deque[dict[str, Any]] = deque()
        self.default: dict[str, Any] = {"kind": "answer"}
        self.formats: tuple[str, ...] = FORMATS
        self.models: list[str] | None = None
        self.contexts: dict[str, int] = {}
        self.reported_model: str | None = None
        self.calls = self.max_in_flight = self.listings = self.connections = 0
        self.requests: deque[dict[str, Any]] = deque(maxlen=MAX_REMEMBERED_REQUESTS)
        self.mix: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = []
        self.ledger: list[Entry] = []
        self.embedder = Embedder()
        self.batches = BatchServer(lambda request: completion(request, "answer", self.reported_model))
        self._draw = random.Random(0)

    def change(self, **changes: Any) -> None:
        """Set ``queue`` (a behaviour per call), ``mix`` (chosen by weight with ``seed``), ``default``, ``formats`` …"""
        default = [changes["default"]] if "default" in changes else []
        for behaviour in [*changes.get("queue", ()), *changes.get("mix", ()), *changes.get("rules", ()), *default]:
            if behaviour.get("kind", "answer") not in KINDS:
                raise ValueError(f"kind must be one of {', '.join(sorted(KINDS))}, got {behaviour['kind']!r}")
        if unknown := changes.keys() - MEMBERS:
            raise ValueError(f"unknown members: {', '.join(sorted(unknown))}")
        self.embedder.change(**changes.pop("embeddings", {}))
        self.batches.change(**changes.pop("batches", {}))
        if "seed" in changes:
            self._draw = random.Random(changes.pop("seed"))
        for name, value in changes.items():
            setattr(self, name, deque(value) if name == "queue" else value)

    def next(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the behaviour of a matching rule, else the next of the queue, else one of the mix or the default."""
        asked = json.dumps(request.get("messages"), ensure_ascii=False) if self.rules else ""
        for rule in self.rules:
            if rule["about"] in asked:
                return rule
        if self.queue:
            return self.queue.popleft()
        if not self.mix:
            return self.default
        return self._draw.choices(self.mix, [behaviour.get("weight", 1) for behaviour in self.mix])[0]

    def snapshot(self) -> dict[str, Any]:
        """Return the counters, the last thousand chat requests and the embedder's requests."""
        counters = ("calls", "in_flight", "max_in_flight", "listings", "connections")
        seen = {
            "requests": list(self.requests),
            "embeddings": self.embedder.snapshot(),
            "batches": self.batches.snapshot(),
        }
        return {name: getattr(self, name) for name in counters} | seen

    @contextlib.contextmanager
    def call(self, body: dict[str, Any], headers: Mapping[str, str], *, sent: bytes) -> Iterator[Entry]:
        """Count one chat call as in flight and add it to the ledger. The API key is not stored."""
        again = any(message.get("role") == "assistant" for message in body.get("messages", ()))
        fingerprint = hashlib.blake2b(sent, digest_size=16).hexdigest()
        entry = Entry(headers.get("idempotency-key"), time.time(), body=fingerprint, again=again)
        entry.limit = body.get("max_tokens") or body.get("max_completion_tokens")
        entry.model = str(body.get("model", ""))
        self.ledger.append(entry)
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.requests.append({"at": time.time(), "authorized": "authorization" in headers, "body": body})
        try:
            yield entry
            entry.ended_at = time.time()
        finally:
            self.in_flight -= 1


class Connection:
    """One client's connection: the needed part of HTTP/1.1, with keep-alive."""

    def __init__(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.script = script
        self.reader = reader
        self.writer = writer

    async def serve(self) -> None:
        """Answer requests until the client disconnects."""
        self.script.connections += 1
        try:
            while True:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await self.reader.readexactly(int(headers.get("content-length") or 0))
                await self.route(method, path, headers, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writer.close()

    async def route(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:  # noqa: C901 - a case per route
        match method, path.removeprefix("/v1"):
            case "POST", "/chat/completions":
                request = json.loads(body)
                with self.script.call(request, headers, sent=body) as entry:
                    await self.chat(request, entry)
            case "POST", "/embeddings":
                await self.embed(json.loads(body), headers)
            case "GET", "/models" if self.script.models is not None:
                self.script.listings += 1
                contexts = self.script.contexts
                listed = [{"id": name, "context_length": contexts.get(name)} for name in self.script.models]
                await self.send({"object": "list", "data": listed})
            case _, place if self.script.batches.serves(place):
                answer = self.script.batches.answer(method, place, headers, body)
                await self.send_bytes(answer.body, status=answer.status, content_type=answer.content_type)
            case "GET", "/__requests":
                await self.send(self.script.snapshot())
            case "GET", "/__ledger":
                await self.send({"calls": [asdict(entry) for entry in self.script.ledger]})
            case "POST", "/__reset":
                self.script.reset()
                await self.send({})
            case "POST", "/__script":
                try:
                    self.script.change(**json.loads(body))
                except ValueError as error:
                    await self.send({"error": str(error)}, status=422)
                else:
                    await self.send({})
            case _:
                await self.refuse({"status": 404, "message": f"no such route {path}"})

    async def chat(self, request: dict[str, Any], entry: Entry) -> None:  # noqa: C901 - one case per kind
        asked_form = request.get("response_format", {}).get("type", "text")
        if asked_form not in self.script.formats:
            entry.answer = "400"
            await self.refuse({"status": 400, "message": f"'response_format.type' {asked_form!r} is not supported"})
            return
        behaviour = self.script.next(request)
        kind = behaviour.get("kind", "answer")
        entry.answer = str(behaviour["status"]) if kind == "status" else kind
        if delay := behaviour.get("delay_ms"):
            await asyncio.sleep(delay / 1_000)
        match kind:
            case "status":
                await self.refuse(behaviour)
            case "hang":
                await self.reader.read()  # until the client gives up
                raise ConnectionResetError
            case "disconnect":
                raise ConnectionResetError
            case "html":
                await self.send_bytes(b"<html><body>Sign in</body></html>", content_type="text/html")
            case "error_200":
                await self.send({"error": {"code": behaviour.get("code", 502), "message": "upstream failed"}})
            case "says" | "choice":
                await self.send(entry.charge(scripted(request, behaviour, self.script.reported_model)))
            case "raw":
                body, headers = base64.b64decode(behaviour["body"]), behaviour.get("headers")
                await self.send_bytes(body, status=behaviour.get("status", 200), headers=headers)
            case "drip":
                await self.drip(entry.charge(completion(request, "answer", self.script.reported_model)))
            case _:
                await self.send(entry.charge(completion(request, kind, self.script.reported_model)))

    async def embed(self, request: dict[str, Any], headers: Mapping[str, str]) -> None:
        with self.script.embedder.call(request, headers) as entry:
            status, answer, more = await self.script.embedder.answer(request)
            entry["answer"] = str(status)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await self.send_bytes(body, status=status, headers=more)

    async def refuse(self, behaviour: Mapping[str, Any]) -> None:
        headers = dict(behaviour.get("headers", {}))
        if "retry_after" in behaviour:
            headers["retry-after"] = str(behaviour["retry_after"])
        error = {"message": behaviour.get("message", "refused"), "code": behaviour.get("code"), "type": "fake"}
        await self.send({"error": error}, status=behaviour["status"], headers=headers)

    async def drip(self, value: dict[str, Any]) -> None:
        """Send a byte every 20 ms: each read succeeds, but the answer does not end in time."""
        body = json.dumps(value).encode()
        self.writer.write(_head(200, len(body), "application/json", {}))
        for index in range(len(body)):
            self.writer.write(body[index : index + 1])
            await self.writer.drain()
            await asyncio.sleep(0.02)

    async def send(self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        await self.send_bytes(json.dumps(value).encode(), status=status, headers=headers)

    async def send_bytes(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.writer.write(_head(status, len(body), content_type, headers or {}) + body)
        await self.writer.drain()


def completion(request: Mapping[str, Any], kind: str, reported_model: str | None = None) -> dict[str, Any]:
    """Return a chat completion of one kind that answers the request's rubric."""
    valid = json.dumps(answer(request))
    message: dict[str, Any] = {"role": "assistant", "content": valid}
    match kind:
        case "fenced":
            message["content"] = f"Here it is:\n```json\n{valid}\n```\nAnything else?"
        case "think":
            message["content"] = f'<think>Perhaps {{"criteria": {{}}}}?</think>\n{valid}'
        case "parts":
            message["content"] = [{"type": "text", "text": valid[:10]}, {"type": "text", "text": valid[10:]}]
        case "invalid":
            message["content"] = valid.replace('"score": ', '"score": 9')
        case "malformed":
            message["content"] = valid.replace(":", "", 1)
        case "prose":
            message["content"] = "I would say it is rather good."
        case "truncated":
            message["content"] = valid[: len(valid) // 2]
        case "empty":
            message["content"] = None
        case "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
    reasons = {"truncated": "length", "filtered": "content_filter"}
    choice = {"index": 0, "finish_reason": reasons.get(kind, "stop"), "message": message}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": reported_model or request["model"],
        "choices": None if kind == "no_choices" else [choice],
        "usage": None if kind == "no_usage" else {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


def scripted(request: Mapping[str, Any], behaviour: Mapping[str, Any], reported_model: str | None) -> dict[str, Any]:
    """Return a completion with the message or the choice of ``behaviour``."""
    whole = completion(request, "answer", reported_model)
    said = {"role": "assistant", "content": behaviour.get("content")}
    whole["choices"][0] |= behaviour.get("choice") or {"message": behaviour.get("message") or said}
    return whole


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid answer to the messages: about a record and guidelines, a report, or a rubric."""
    return alignment.answer(request["messages"]) or scores(request)


def scores(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid answer to the rubric in the messages: scores of 10 to 99 that depend only on the profile."""
    text = "\n".join(str(message["content"]) for message in request["messages"])
    listed, profile = (re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL) for name in ("criteria", "profile"))
    seed = hashlib.sha256(profile[1].encode() if profile else b"").digest()
    given = {
        one.get("key", one["name"]): {
            "evidence": ["name"],
            "reasoning": "Made up by a fake.",
            "score": 10 + seed[index % 32] % 90,
        }
        for index, one in enumerate(json.loads(listed[1]) if listed else ())
    }
    return {"criteria": given, "flags": []}


def calls_of(entries: Iterable[Mapping[str, Any]]) -> list[Call]:
    """Return the entries that name their job, in order. ``entries`` are ``calls`` of ``GET /__ledger``."""
    named = ((entry, _job_of(entry["key"])) for entry in entries)
    return [Call(job_id=job_id, **entry) for entry, job_id in named if job_id]


def _job_of(key: str | None) -> UUID | None:
    """Return the job id at the start of an idempotency key, or None if there is none."""
    try:
        return UUID((key or "")[:36])
    except ValueError:
        return None


async def serve(script: Script, *, port: int = 0) -> asyncio.Server:
    """Start listening on loopback."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The task is cancelled when the server stops. asyncio 3.11 reports a cancelled connection as an error.
        with contextlib.suppress(asyncio.CancelledError):
            await Connection(script, reader, writer).serve()

    return await asyncio.start_server(connected, "127.0.0.1", port, backlog=4_096, limit=16 * 1024 * 1024)


def url_of(server: asyncio.Server) -> str:
    """Return the base URL for clients."""
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


class FakeOpenAI:
    """The server on its own thread, for ``with`` in a test."""

    def __init__(self, *, port: int = 0) -> None:
        self._port = port
        self._script = Script()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-openai", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(serve(self._script, port=self._port), self._loop).result(10)
        self.url = url_of(self._server)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def script(self, **changes: Any) -> None:
        """Change the behaviour as ``Script.change`` does. The change is effective when this returns."""

        async def change() -> None:
            self._script.change(**changes)

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    def reset(self) -> None:
        """Clear script and counters for the next test."""

        async def reset() -> None:
            self._script.reset()

        asyncio.run_coroutine_threadsafe(reset(), self._loop).result(10)

    @property
    def embedder(self) -> Embedder:
        """The embeddings part of the server."""
        return self._script.embedder

    @property
    def batches(self) -> BatchServer:
        """The batches of the server: files, batches, and how they go on."""
        return self._script.batches

    @property
    def router_url(self) -> str:
        """The base URL for clients that use OpenRouter's form of batches."""
        return f"{self.url.removesuffix('/v1')}/api/v1"

    @property
    def calls(self) -> int:
        """The number of chat calls."""
        return self._script.calls

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of the chat calls, in order."""
        return [request["body"] for request in list(self._script.requests)]

    @property
    def ledger(self) -> list[Call]:
        """Every chat call that named its job, in order. ``calls`` also counts the others."""
        return calls_of(map(asdict, list(self._script.ledger)))

    def snapshot(self) -> dict[str, Any]:
        """Return the counters and the requests."""
        return self._script.snapshot()

    async def _stop(self) -> None:
        self._server.close()
        connections = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def _head(status: int, length: int, content_type: str, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Custom')}",
        f"content-type: {content_type}",
        f"content-length: {length}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _main(port: int) -> None:
    server = await serve(Script(), port=port)
    print(url_of(server), flush=True)  # noqa: T201 - read by the parent process
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a fake OpenAI-compatible server on loopback; prints its URL")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().port))
