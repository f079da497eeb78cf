"""The load during a run: every kind of job by three doors, cancels at any moment, and the evidence of each.

It runs on an event loop in its own thread. One door is a direct connection to Postgres. Another one uses the proxy, so
its answers may be lost. The third one is the gateway (:mod:`tests.chaos.service`), for a part of the scoring jobs.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import text

from tests.chaos.evidence import Evidence
from tests.chaos.service import Access, Service
from tests.support.proving.models import WaitingJob
from workers.runtime.actor import Actor
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue, enqueue_many
from workers.runtime.handler.registry import Registry
from workers.runtime.store.claim import Ticket
from workers.runtime.store.decide import Decision, decide
from workers.runtime.store.expire import expire
from workers.runtime.store.intervene import cancel
from workers.runtime.store.tables import job_table

T = TypeVar("T")
Order = tuple[str, dict[str, Any]]

KEYS = 8
PUT_SECONDS = 25.0
# Shares: jobs that are cancelled; jobs by the door that may lose answers; lost answers that are asked for again.
CANCELLED, PROXIED, REPEATED = 0.06, 0.4, 0.5
# The share of scoring jobs that a service enqueues through a gateway.
BY_GATEWAY = 0.4
PRIORITY_PROBE = 1
# One key always has more jobs than its limit, so that every fault also meets a key at its limit.
HOT_STAGE, HOT_KEY, HOT_BACKLOG = "proving.keyed", "hot", 12
HOT_LOOK_SECONDS = 0.5


def _plain(draw: random.Random, act: str = "complete", seconds: float = 0.3) -> Order:
    return "proving.plain", {"act": act, "seconds": round(draw.uniform(0, seconds), 3)}


def score(draw: random.Random, profiles: Sequence[UUID]) -> Order:
    """Return a scoring job about one of ``profiles``; one in eight repeats a question of other jobs."""
    topic = draw.randrange(20) if draw.random() < 1 / 8 else draw.getrandbits(64)
    return "scoring.score", {"profile_id": str(draw.choice(profiles)), "prompt": f"How clear is it? Question {topic}"}


# The weight of each kind of job, and the function that makes it. Scoring jobs need ``profiles``.
MIX: Sequence[tuple[int, Callable[[random.Random, Sequence[UUID]], Order]]] = (
    (6, lambda draw, _: _plain(draw)),
    (3, lambda draw, _: _plain(draw, seconds=3.0)),
    (5, lambda draw, _: _plain(draw, "write", 1.5)),
    (2, lambda draw, _: _plain(draw, "flaky")),
    (2, lambda draw, _: _plain(draw, "snooze")),
    (1, lambda draw, _: _plain(draw, "fail")),
    (1, lambda draw, _: _plain(draw, "bad_write")),
    (5, lambda draw, _: ("proving.keyed", {"key": f"k{draw.randrange(KEYS)}", "seconds": draw.uniform(0, 0.5)})),
    (3, lambda draw, _: ("proving.first", {"act": "write", "seconds": draw.uniform(0, 0.5)})),
    (6, score),
)


class Workload:
    """Enqueue about ``rate`` jobs a second until stopped, and record the answers in ``evidence``.

    The n-th job, and what is done with it, depends only on the seed and n, not on the time of answers.
    """

    def __init__(
        self, direct_url: str, proxied_url: str, *, registry: Registry, evidence: Evidence, seed: int, rate: float
    ) -> None:
        self.evidence = evidence
        self.profiles: list[UUID] = []
        self.service: Service | None = None
        self.refused = 0
        self.started_at = 0.0
        self._registry = registry
        self._seed = seed
        self._rate = rate
        self._direct = Database(direct_url, changed_by="chaos", pool_size=10)
        self._proxied = Database(proxied_url, changed_by="chaos", pool_size=10)
        # Jobs for a fault must not wait behind a load that waits for a locked table.
        self._apart = Database(direct_url, changed_by="chaos", pool_size=2)
        self._cancels = count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="workload", daemon=True)
        self._producing: list[asyncio.Task[None]] = []
        self._errands: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begin to enqueue."""
        self.started_at = time.monotonic()

        async def start() -> None:
            self._producing = [asyncio.create_task(work()) for work in (self._produce, self._keep_hot_key_full)]

        if not self._thread.is_alive():
            self._thread.start()
        self._submit(start())

    def open_service(self, gateways: Sequence[str], access: Access) -> None:
        """Let a service use these gateways from now on; its streams begin before this returns."""
        self.service = Service(gateways, access, evidence=self.evidence, seed=self._seed)
        if not self._thread.is_alive():
            self._thread.start()
        self._submit(self.service.open())

    def stop(self) -> None:
        """Stop enqueueing; return when every open request is answered or given up."""

        async def stop() -> None:
            for task in self._producing:
                task.cancel()
            await asyncio.gather(*self._producing, *self._errands, return_exceptions=True)

        if self._thread.is_alive():
            self._submit(stop(), seconds=2 * PUT_SECONDS)

    def close(self) -> None:
        """Stop, then close every connection."""
        self.stop()

        async def close() -> None:
            if self.service is not None:
                await self.service.close()
            for door in (self._direct, self._proxied, self._apart):
                await door.close()

        if self._thread.is_alive():
            with suppress(Exception):
                self._submit(close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop.close()

    # ── what faults ask for, from the main thread ────────────────────────────────────────────────────────────────────

    def put(self, stage: str, payloads: Sequence[Mapping[str, Any]], *, max_retries: int | None = None) -> list[UUID]:
        """Enqueue these jobs in one transaction by a separate direct door; wait while Postgres is away."""

        async def put() -> list[UUID]:
            model = self._registry[stage].model
            async with self._apart.session() as session:
                jobs = [job.id for job in await enqueue_many(session, stage, payloads)]
                if max_retries is not None:
                    for job in jobs:
                        (await session.get_one(model, job)).max_retries = max_retries
            self.evidence.committed |= dict.fromkeys(jobs, stage)
            return jobs

        while True:
            try:
                return self._submit(put())
            except Exception:  # noqa: BLE001 - after any error: no job was acknowledged, so ask again
                time.sleep(0.1)

    def table(self, stage: str) -> str:
        """Return the name of the table that holds the jobs of ``stage``."""
        return job_table(self._registry[stage].model).name

    def cancel_later(self, jobs: Sequence[tuple[str, UUID]], *, within: float) -> None:
        """Cancel each of these jobs at a random moment."""
        draw = random.Random(f"{self._seed}:cancels:{next(self._cancels)}")

        async def plan() -> None:
            for stage, job in jobs:
                self._errand(self._cancel(stage, job, after=draw.uniform(0, within)))

        self._submit(plan())

    def race_decisions(
        self,
        pages: Sequence[Ticket],
        *,
        into: Sequence[str] = ("approved", "rejected", "waived"),
        beat: bool = True,
        cancelled: Sequence[Ticket] = (),
    ) -> list[tuple[UUID, int, str, str]]:
        """Let one person per state decide all of these at once, against beat and cancels; return what was accepted.

        A decision has the job, the version that it made, the state and the person.
        """

        async def decide_all(person: str, state: str) -> list[tuple[UUID, int, str, str]]:
            ones = [Decision(job_id=job, version=version, into=state) for job, version in pages]
            async with self._direct.kernel() as conn:
                done = await decide(conn, WaitingJob, ones, actor=Actor(changed_by=person))
            return [(one.decision.job_id, one.version or 0, state, person) for one in done if one.won]

        async def disturb() -> None:
            async with self._direct.kernel() as conn:
                await expire(conn, WaitingJob)
                await cancel(conn, WaitingJob, [job for job, _ in cancelled], reason="no longer wanted")

        async def race() -> list[tuple[UUID, int, str, str]]:
            disturbance = [disturb()] if beat else []
            answers = await asyncio.gather(
                *(decide_all(f"person {n}", state) for n, state in enumerate(into)),
                *disturbance,
                return_exceptions=True,  # without an answer, nothing was confirmed
            )
            return [one for won in answers if isinstance(won, list) for one in won]

        return self._submit(race()) if pages or beat else []

    # ── the load ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _produce(self) -> None:
        weights = [weight for weight, _ in MIX]
        for number in count():
            draw = random.Random(f"{self._seed}:job:{number}")
            await asyncio.sleep(draw.expovariate(self._rate))
            make = draw.choices(MIX, weights)[0][1]
            stage, payload = make(draw, self.profiles)
            self._errand(self._put(draw, stage, payload | {"priority": draw.randint(2, 10)}))

    async def _keep_hot_key_full(self) -> None:
        while True:
            with suppress(Exception):  # after any error, the next pass adds the missing jobs
                await self._fill_hot_key()
            await asyncio.sleep(HOT_LOOK_SECONDS)

    async def _fill_hot_key(self) -> None:
        """Enqueue jobs until the hot key has its full backlog."""
        unended = text(f"SELECT count(*) FROM {self.table(HOT_STAGE)} WHERE key = :key AND completed_at IS NULL")
        async with asyncio.timeout(PUT_SECONDS), self._direct.session() as session:
            left = await session.scalar(unended, {"key": HOT_KEY})
            wanted = {"key": HOT_KEY, "act": "write", "seconds": 2.0}
            jobs = await enqueue_many(session, HOT_STAGE, [wanted] * (HOT_BACKLOG - (left or 0)))
        self.evidence.committed |= dict.fromkeys((job.id for job in jobs), HOT_STAGE)

    async def _put(self, draw: random.Random, stage: str, payload: dict[str, Any]) -> None:
        if self.service is not None and stage == "scoring.score" and draw.random() < BY_GATEWAY:
            await self._put_by_gateway(self.service, draw, stage, payload)
            return
        proxied = draw.random() < PROXIED
        key = f"chaos:{draw.getrandbits(64):x}" if proxied or draw.random() < 1 / 2 else None
        try:
            job = await self._ask(self._proxied if proxied else self._direct, stage, payload, key)
        except Exception:  # noqa: BLE001 - after any error, the job may be committed or not
            self.refused += 1
            if key:
                self.evidence.unsure[key] = stage
                await self._ask_again(draw, stage, payload, key)
            return
        self.evidence.committed[job] = stage
        if draw.random() < CANCELLED:
            await self._cancel(stage, job, after=draw.expovariate(2.0))

    async def _put_by_gateway(self, service: Service, draw: random.Random, stage: str, payload: dict[str, Any]) -> None:
        """Enqueue a job through a gateway. Without an answer until the load stops, it may be there or not."""
        key = f"chaos:{draw.getrandbits(64):x}"
        self.evidence.unsure[key] = stage
        question = {name: value for name, value in payload.items() if name != "priority"}
        job = await service.enqueue(stage, question, key, priority=payload["priority"])
        del self.evidence.unsure[key]
        self.evidence.committed[job] = stage
        if draw.random() < CANCELLED:
            await asyncio.sleep(draw.expovariate(2.0))
            if await service.cancel(job):
                self.evidence.cancelled[job] = time.time()

    async def _ask(self, door: Database, stage: str, payload: Mapping[str, Any], key: str | None) -> UUID:
        async with asyncio.timeout(PUT_SECONDS), door.session() as session:
            job = await enqueue(session, stage, payload, **({"idempotency_key": key} if key else {}))
        return job.id

    async def _ask_again(self, draw: random.Random, stage: str, payload: Mapping[str, Any], key: str) -> None:
        """In half of the cases, repeat a request without an answer: it returns the first job if there is one."""
        if draw.random() > REPEATED:
            return
        await asyncio.sleep(draw.uniform(0, 3))
        with suppress(Exception):
            job = await self._ask(self._direct, stage, payload, key)
            del self.evidence.unsure[key]
            self.evidence.committed[job] = stage

    async def _cancel(self, stage: str, job: UUID, *, after: float) -> None:
        await asyncio.sleep(after)
        with suppress(Exception):  # without an answer, nothing is promised
            async with asyncio.timeout(PUT_SECONDS), self._direct.kernel() as connection:
                done = await cancel(connection, self._registry[stage].model, [job], reason="no longer wanted")
            if done:
                self.evidence.cancelled[job] = time.time()

    def _errand(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _submit(self, work: Coroutine[Any, Any, T], *, seconds: float = PUT_SECONDS) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)
