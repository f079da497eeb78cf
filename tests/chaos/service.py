"""A service behind the gateways: it enqueues jobs with callbacks, follows them in streams, and is called back."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from uuid import UUID

import httpx2

from tests.chaos.evidence import Evidence, Message, Stream
from tests.support.callbacks import receiving
from tests.support.callers import bearer
from tests.support.fakes.web_server import Seen

REQUEST_SECONDS = 10.0
# A stream has a comment every 15 s; a client that hears nothing for longer breaks off.
SILENCE_SECONDS = 20.0
PAUSE_SECONDS = 0.3
# The receiver refuses this share of the messages at their first attempt; a client of a stream breaks off so often.
REFUSED, BREAKS_OFF_AFTER = 0.05, 8.0
TENANT, EVERYBODY = "of a tenant", "of an operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The keys of a tenant and of an operator, and the tenant's profile."""

    key: str
    operator_key: str
    profile_id: UUID


class Service:
    """It tries each request again with the same key, at another gateway, until it is answered.

    Everything runs on the loop that opened it.
    """

    def __init__(self, gateways: Sequence[str], access: Access, *, evidence: Evidence, seed: int) -> None:
        self._gateways = cycle(gateways)
        self._access = access
        self._evidence = evidence
        self._draw = random.Random(f"{seed}:service")
        self._refused: set[str] = set()
        self._open = AsyncExitStack()
        self._followers: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open the receiver and the streams; return when both streams know where they begin."""
        self._client = await self._open.enter_async_context(httpx2.AsyncClient(timeout=REQUEST_SECONDS))
        self._receiver = await self._open.enter_async_context(receiving())
        self._receiver.web.answers["/hook"] = self._receive
        answer = await self._request("POST", "/v1/callbacks/secret", json={})
        self._receiver.secrets.append(answer.json()["secret"])
        self._evidence.streams = {TENANT: Stream(owned=set()), EVERYBODY: Stream()}
        began = {name: asyncio.Event() for name in self._evidence.streams}
        keys = {TENANT: self._access.key, EVERYBODY: self._access.operator_key}
        self._followers = [
            asyncio.create_task(self._follow(stream, keys[name], began[name]))
            for name, stream in self._evidence.streams.items()
        ]
        await asyncio.gather(*(one.wait() for one in began.values()))

    async def close(self) -> None:
        """Break off the streams and stop the receiver."""
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        await self._open.aclose()

    async def enqueue(self, stage: str, payload: Mapping[str, Any], key: str, **options: Any) -> UUID:
        """Enqueue one job with a callback, about the tenant's profile; return its id."""
        job = {
            "stage": stage,
            "payload": {**payload, "profile_id": str(self._access.profile_id)},
            "callback_url": self._receiver.url(),
            **options,
        }
        answer = await self._request("POST", "/v1/jobs", json=job, headers={"Idempotency-Key": key})
        job_id = UUID(answer.json()["id"])
        self._evidence.with_callback.add(job_id)
        owned = self._evidence.streams[TENANT].owned
        assert owned is not None
        owned.add(job_id)
        return job_id

    async def cancel(self, job_id: UUID) -> bool:
        """Cancel a job; return False if it has ended before."""
        answer = await self._request("POST", f"/v1/jobs/{job_id}/cancel", json={}, accept=(200, 409))
        return bool(answer.status_code == 200)

    async def _request(self, method: str, path: str, *, accept: Sequence[int] = (200, 201), **given: Any) -> Any:
        """Return the answer of a gateway, after as many attempts as it takes."""
        headers = {**bearer(self._access.key), **given.pop("headers", {})}
        while True:
            with suppress(httpx2.HTTPError):
                answer = await self._client.request(method, f"{next(self._gateways)}{path}", headers=headers, **given)
                if answer.status_code in accept:
                    return answer
                if answer.status_code < 500:
                    raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
            await asyncio.sleep(PAUSE_SECONDS)

    # ── callbacks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _receive(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        """Take a message, or refuse it: only at its first attempt, because the third one comes after minutes."""
        id_ = seen.headers["webhook-id"]
        is_accepted = id_ in self._refused or self._draw.random() >= REFUSED
        if not is_accepted:
            self._refused.add(id_)
        data = json.loads(seen.body)["data"]
        self._evidence.messages.append(
            Message(
                job_id=UUID(data["job_id"]),
                id=id_,
                state=data["status"],
                version=data["version"],
                is_signed=bool(self._receiver.verified(seen)),
                is_accepted=is_accepted,
            )
        )
        writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: 0\r\n\r\n" % (204 if is_accepted else 500))

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self, stream: Stream, key: str, began: asyncio.Event) -> None:
        """Follow all that ``key`` may see, for ever; break off at random moments, and go on after the last id."""
        last: str | None = None
        while True:
            headers = bearer(key) | ({"Last-Event-ID": last} if last else {})
            url, timeout = f"{next(self._gateways)}/v1/events", httpx2.Timeout(REQUEST_SECONDS, read=SILENCE_SECONDS)
            with suppress(httpx2.HTTPError, TimeoutError):
                async with (
                    asyncio.timeout(self._draw.expovariate(1 / BREAKS_OFF_AFTER)),
                    self._client.stream("GET", url, headers=headers, timeout=timeout) as answer,
                ):
                    if answer.status_code == 200:
                        async for id_, data in _events(answer):
                            if data is not None:
                                stream.shown.append((UUID(data["job_id"]), data["version"]))
                            last = id_ or last
                            began.set()
            await asyncio.sleep(PAUSE_SECONDS)


async def _events(answer: Any) -> AsyncIterator[tuple[str | None, dict[str, Any] | None]]:
    """Yield the id and the data of each event, once it is complete."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line and fields:
            yield fields.get("id"), json.loads(fields["data"]) if "data" in fields else None
            fields = {}
