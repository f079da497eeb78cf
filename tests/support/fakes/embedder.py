"""The embeddings part of the fake OpenAI-compatible server. It makes vectors from digests; it has limits and faults."""

import asyncio
import base64
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

FAULTS = frozenset({"status", "hang", "disconnect", "too_few", "ragged", "not_finite", "zeros", "error_200", "raw"})
# The properties of the server; see ``Embedder``.
TRAITS: Mapping[str, Any] = {
    "dimension": 8,
    "delay_ms": 0,
    "most_texts": None,
    "most_bytes": None,
    "refuses": None,
    "spoils": None,
    "served": None,
    "shuffled": False,
}


class Embedder:
    """Answers requests for embeddings and records them.

    ``change`` sets its properties: ``dimension`` and ``delay_ms`` of its answers; ``most_texts`` in a request and
    ``most_bytes`` of one text, above which it answers 400 and 413; a word that it ``refuses`` with 400; by word, the
    number that fills the vector of a text with that word (``spoils``); the models that are ``served`` (None: any);
    whether items are ``shuffled``. ``faults`` is a queue of behaviours for the next requests, of the kinds ``FAULTS``,
    like those of the chat part; None is a request without a fault.
    """

    def __init__(self) -> None:
        self.traits = dict(TRAITS)
        self.faults: deque[dict[str, Any] | None] = deque()
        self.requests: list[dict[str, Any]] = []
        self.in_flight = self.max_in_flight = 0
        # The total time with each number of requests in flight.
        self.busy: dict[int, float] = {}
        self._since = time.monotonic()

    def change(self, **changes: Any) -> None:
        if unknown := changes.keys() - TRAITS.keys() - {"faults"}:
            raise ValueError(f"unknown traits: {', '.join(sorted(unknown))}")
        if "faults" in changes:
            self.faults = deque(changes.pop("faults"))
            if wrong := {fault["kind"] for fault in self.faults if fault} - FAULTS:
                raise ValueError(f"unknown faults: {', '.join(sorted(wrong))}")
        self.traits |= changes

    def texts(self) -> list[str]:
        """Return every text of every answered request, in order, with repeats."""
        return [text for request in self.requests if request["answer"] == "200" for text in request["input"]]

    @contextlib.contextmanager
    def call(self, request: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Count one request as in flight; yield its entry, to which the caller adds the answer."""
        entry = {**request, "key": headers.get("idempotency-key"), "answer": "none"}
        self.requests.append(entry)
        self._step(+1)
        try:
            yield entry
        finally:
            self._step(-1)

    def _step(self, change: int) -> None:
        now = time.monotonic()
        self.busy[self.in_flight] = self.busy.get(self.in_flight, 0.0) + now - self._since
        self._since = now
        self.in_flight += change
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    async def answer(self, request: Mapping[str, Any]) -> tuple[int, dict[str, Any] | bytes, dict[str, str]]:
        """Return status, body and headers; raise ConnectionResetError if the connection should break."""
        fault = self.faults.popleft() if self.faults else None
        if delay := (fault or {}).get("delay_ms", self.traits["delay_ms"]):
            await asyncio.sleep(delay / 1_000)
        if (refusal := self._refusal(request)) is not None:
            return refusal
        kind = fault["kind"] if fault else "answer"
        match kind:
            case "status":
                assert fault is not None
                headers = {"retry-after": str(fault["retry_after"])} if "retry_after" in fault else {}
                return _error(fault["status"], fault.get("message", "refused"), code=fault.get("code"), **headers)
            case "hang":
                await asyncio.sleep(3_600)
            case "disconnect":
                raise ConnectionResetError
            case "raw":
                assert fault is not None
                return fault.get("status", 200), base64.b64decode(fault["body"]), fault.get("headers", {})
            case "error_200":
                return 200, {"error": {"code": 502, "message": "upstream failed"}}, {}
        return 200, self._vectors(request, kind), {}

    def _refusal(self, request: Mapping[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        texts, traits = request["input"], self.traits
        if traits["served"] is not None and request["model"] not in traits["served"]:
            return _error(404, f"model {request['model']} is not served")
        if traits["most_texts"] is not None and len(texts) > traits["most_texts"]:
            return _error(400, f"at most {traits['most_texts']} inputs, got {len(texts)}")
        if traits["most_bytes"] is not None and any(len(text.encode()) > traits["most_bytes"] for text in texts):
            return _error(400, "this model's maximum context length is exceeded", code="context_length_exceeded")
        if traits["refuses"] is not None and any(traits["refuses"] in text for text in texts):
            return _error(400, "input is not allowed")
        return None

    def _vectors(self, request: Mapping[str, Any], kind: str) -> dict[str, Any]:
        dimension = self.traits["dimension"]
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": index, "embedding": vector_of(text, request["model"], dimension)}
            for index, text in enumerate(request["input"])
        ]
        for word, number in (self.traits["spoils"] or {}).items():
            for item, text in zip(data, request["input"], strict=True):
                if word in text:
                    item["embedding"] = [number] * dimension
        match kind:
            case "too_few":
                data.pop()
            case "ragged":
                data[-1]["embedding"] = data[-1]["embedding"] + [0.5]
            case "not_finite":
                data[0]["embedding"][0] = float("nan")
            case "zeros":
                data[0]["embedding"] = [0.0] * dimension
        if self.traits["shuffled"]:
            data.reverse()
        tokens = sum(len(text.encode()) // 4 + 1 for text in request["input"])
        return {"object": "list", "model": request["model"], "data": data, "usage": {"prompt_tokens": tokens}}

    def snapshot(self) -> dict[str, Any]:
        """Return the counters, and every request without its vectors."""
        return {
            "requests": list(self.requests),
            "max_in_flight": self.max_in_flight,
            "busy": {str(count): seconds for count, seconds in self.busy.items()},
        }


def vector_of(text: str, model: str, dimension: int) -> list[float]:
    """Return the server's vector of ``text``. Its values are multiples of 1/256, exact in single precision."""
    digest = hashlib.shake_256(f"{model}\n{text}".encode()).digest(dimension)
    return [(byte - 127.5) / 128 for byte in digest]


def _error(
    status: int, message: str, *, code: str | None = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message, "code": code, "type": "fake"}}, named
