"""The batches of the fake provider, in OpenAI's form (files) and in OpenRouter's (requests in the call).

A batch stays ``in_progress`` until the test says ``finish``, or is over at the first look with ``auto``. ``outcomes``
says what becomes of lines: a list of rules ``{"about": text, "kind": …}``. The first rule with a text that the line's
body contains counts. Kinds: ``expired``, ``error`` (with ``status``), ``missing``, ``twice``, ``strange`` (a line that
nobody can read, and one of another batch).
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAX_LINES, MAX_BYTES = 50_000, 200_000_000
ROUTER = "/api/beta/batches"
MEMBERS = frozenset({"auto", "outcomes", "refuses", "fails_with", "wrong_usage", "lists"})


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"


@dataclass(slots=True)
class FakeBatch:
    """One batch: its lines by name, how far it is, and its results."""

    id: str
    lines: list[dict[str, Any]]
    metadata: Mapping[str, Any] | None
    model: str | None
    form: str
    created_at: float = field(default_factory=time.time)
    status: str = "in_progress"
    failure: str | None = None
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    tokens: int = 0


class BatchServer:
    """Keeps files and batches. Reads of its lists are safe while it serves."""

    def __init__(self, complete: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._complete = complete
        self._lock = threading.RLock()
        self.files: dict[str, bytes] = {}
        self.batches: list[FakeBatch] = []
        self.keys: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.auto = False
        self.outcomes: list[dict[str, Any]] = []
        self.refuses: int | None = None
        self.fails_with: str | None = None
        self.wrong_usage = 0
        self.lists = True

    def change(self, **changes: Any) -> None:
        """Set ``auto``, ``outcomes``, ``refuses`` (a status for every call), ``fails_with`` (a code) and others."""
        if unknown := changes.keys() - MEMBERS:
            raise ValueError(f"unknown members of batches: {', '.join(sorted(unknown))}")
        with self._lock:
            for name, value in changes.items():
                setattr(self, name, value)

    def snapshot(self) -> dict[str, Any]:
        """Return how many files and batches there are, and what was cancelled."""
        return {
            "files": len(self.files),
            "cancelled": list(self.cancelled),
            "batches": [
                {"id": one.id, "status": one.status, "lines": [line["custom_id"] for line in one.lines]}
                for one in list(self.batches)
            ],
            "tokens": self.tokens,
        }

    @property
    def tokens(self) -> int:
        """The tokens of all answered lines: what the provider charges for."""
        return sum(one.tokens for one in list(self.batches))

    @property
    def lines(self) -> list[str]:
        """The name of every line of every batch, in order."""
        return [line["custom_id"] for one in list(self.batches) for line in one.lines]

    def finish(self, status: str = "completed", *, place: int = -1) -> None:
        """End a batch: each line gets its result; with another ``status`` only those that are answered by then."""
        with self._lock:
            self._end(self.batches[place], status)

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def serves(self, path: str) -> bool:
        """Tell whether this part of the server answers."""
        return path.startswith(("/files", "/batches", ROUTER))

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request."""
        with self._lock:
            if self.refuses is not None:
                return _refuse(self.refuses, "batches are not for you")
            url = urlsplit(path)
            match method, [part for part in url.path.removeprefix("/api/beta").split("/") if part]:
                case "POST", ["files"]:
                    return self._upload(headers, body)
                case "GET", ["files", name, "content"] if name in self.files:
                    return Reply(self.files[name], content_type="application/octet-stream")
                case "POST", ["batches"]:
                    form = "router" if url.path.startswith(ROUTER) else "files"
                    return self._create(json.loads(body), form, headers.get("idempotency-key"))
                case "GET", ["batches"]:
                    return self._list(parse_qs(url.query))
                case "GET", ["batches", name] if found := self._batch(name):
                    if self.auto and found.status == "in_progress":
                        self._end(found, "completed")
                    return _json(self._shown(found, whole=True))
                case "POST", ["batches", name, "cancel"] if found := self._batch(name):
                    self.cancelled.append(name)
                    if found.status == "in_progress":
                        self._end(found, "cancelled")
                    return _json(self._shown(found))
        return _refuse(404, f"no such route {path}")

    def _upload(self, headers: Mapping[str, str], body: bytes) -> Reply:
        head = f"content-type: {headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        content: Any = parts["file"].get_payload(decode=True)
        if len(content) > MAX_BYTES:
            return _refuse(413, "the file is too large")
        name = f"file-{len(self.files)}"
        self.files[name] = bytes(content)
        return _json({"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time()),
                      "filename": "x.jsonl", "purpose": "batch", "status": "processed"})  # fmt: skip

    def _create(self, asked: dict[str, Any], form: str, key: str | None) -> Reply:
        if key is not None and key in self.keys:
            return _json(self._shown(self._batch(self.keys[key])))
        if form == "router":
            if list(asked)[:2] != ["endpoint", "model"]:
                return _refuse(400, "endpoint and model must stand before requests")
            lines = asked["requests"]
        else:
            lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        batch = FakeBatch(f"batch_{len(self.batches)}", lines, asked.get("metadata"), asked.get("model"), form)
        self.batches.append(batch)
        if key is not None and form == "router":  # OpenAI has no such keys
            self.keys[key] = batch.id
        names = [line["custom_id"] for line in lines]
        if self.fails_with or not names or len(names) > MAX_LINES or len(set(names)) < len(names):
            batch.status, batch.failure = "failed", self.fails_with or "invalid_file"
        return Reply(_json(self._shown(batch)).body, status=202 if form == "router" else 200)

    def _list(self, query: Mapping[str, list[str]]) -> Reply:
        newest = list(reversed(self.batches)) if self.lists else []
        if after := query.get("after"):
            place = next(place for place, one in enumerate(newest) if one.id == after[0])
            newest = newest[place + 1 :]
        limit = int(query.get("limit", ["20"])[0])
        rows = [self._shown(one) for one in newest[:limit]]
        return _json({"object": "list", "data": rows, "has_more": len(newest) > limit})

    def _batch(self, name: str) -> Any:
        return next((one for one in self.batches if one.id == name), None)

    def _shown(self, batch: FakeBatch, *, whole: bool = False) -> dict[str, Any]:
        over = batch.status in {"completed", "failed", "expired", "cancelled"}
        shown: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "status": batch.status,
            "created_at": int(batch.created_at),
            "metadata": batch.metadata,
            "request_counts": {
                "total": len(batch.lines),
                "completed": len(batch.output),
                "failed": len(batch.errors),
            },
        }
        if over:
            shown["usage"] = {"total_tokens": batch.tokens + self.wrong_usage}
        if batch.failure:
            shown["errors"] = {"object": "list", "data": [{"code": batch.failure, "message": "refused as a whole"}]}
        if batch.form == "router":
            shown["model"] = batch.model
            if over and whole:
                shown["results"] = [json.loads(line) for line in batch.output + batch.errors if _is_json(line)]
        elif over:
            for what, lines in (("output", batch.output), ("error", batch.errors)):
                if lines:
                    name = f"{batch.id}-{what}"
                    self.files[name] = "\n".join(lines).encode()
                    shown[f"{what}_file_id"] = name
        return shown

    # ── what becomes of lines ────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, batch: FakeBatch, status: str) -> None:
        batch.status = status
        for line in reversed(batch.lines):  # never in the order in which they were asked
            self._answer_line(batch, line, status)

    def _answer_line(self, batch: FakeBatch, line: dict[str, Any], status: str) -> None:
        asked = json.dumps(line["body"], ensure_ascii=False)
        answers: dict[str, Any] = {"kind": "answer"}
        rule = next((rule for rule in self.outcomes if rule["about"] in asked), answers)
        name, kind = line["custom_id"], rule["kind"]
        if status != "completed" and kind == "answer" and not rule.get("about"):
            kind = "expired" if status == "expired" else "missing"
        match kind:
            case "expired":
                batch.errors.append(_error(name, "batch_expired", "This request could not be executed in time.", None))
            case "error":
                batch.errors.append(_error(name, "refused", "no", rule.get("status", 500)))
            case "missing":
                pass
            case "strange":
                batch.output += ["{not json", json.dumps({"custom_id": "of-another-batch", "response": None})]
                self._answered(batch, line)
            case "twice":
                self._answered(batch, line)
                batch.output.append(batch.output[-1])
            case _:
                self._answered(batch, line)

    def _answered(self, batch: FakeBatch, line: dict[str, Any]) -> None:
        body = self._complete({"model": batch.model or line["body"].get("model"), **line["body"]})
        batch.tokens += body["usage"]["total_tokens"]
        batch.output.append(
            json.dumps({"id": "x", "custom_id": line["custom_id"], "error": None,
                        "response": {"status_code": 200, "request_id": "r", "body": body}})
        )  # fmt: skip


def _error(name: str, code: str, message: str, status: int | None) -> str:
    error = {"code": code, "message": message}
    response = None if status is None else {"status_code": status, "body": {"error": error}}
    return json.dumps({"custom_id": name, "response": response, "error": error if status is None else None})


def _json(value: Any) -> Reply:
    return Reply(json.dumps(value).encode())


def _refuse(status: int, message: str) -> Reply:
    return Reply(json.dumps({"error": {"message": message, "code": None}}).encode(), status=status)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
