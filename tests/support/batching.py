"""A mill with a batch lane: real admission, ledger, routes and stages; a fake provider whose batches the test ends."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from gristmill_testing.mill import Heard, mill
from gristmill_testing.waiting import until
from models.llm.batches import Batch
from tests.support.admission import PriceList
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.kernel import Jobs
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.turns import Turns
from workers.llm.batch_lane.apis import BatchProvider
from workers.llm.batch_lane.lane import BatchLane
from workers.llm.batch_lane.postgres_batches import PostgresBatches
from workers.llm.controlled import ControlledModel
from workers.llm.pauses import Gate
from workers.llm.ports import Control
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.routing import Provider, Route, Step
from workers.llm.routing.virtual import Environment, merged
from workers.runtime.actor import Actor
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue_many
from workers.runtime.handler.registry import Registry
from workers.runtime.store.decide import Decision, decide

SCORE = "scoring.score"
MODEL = "m0"
PROVIDER = "p0"
OPTIONS = ClientOptions(connect_timeout=2.0, timeout=10.0, max_connections=64)
PATIENT = 15.0


def provider_of(fake: FakeOpenAI, kind: str) -> Provider:
    """Return the fake server as a provider of one kind of batches."""
    url = fake.router_url if kind == "openrouter" else fake.url
    return Provider(name=PROVIDER, kind=kind, base_url=url, api_key="sk-test")


@dataclass(frozen=True)
class Parts:
    """What one process with a batch lane consists of."""

    llm: ControlledModel
    batches: PostgresBatches
    admission: PostgresAdmission

    async def aclose(self) -> None:
        await self.llm.aclose()
        await self.batches.aclose()
        await self.admission.aclose()


def make_parts(database: Database, fake: FakeOpenAI, *, kind: str = "compatible", **batches: Any) -> Parts:
    """Return the parts of a process whose one route asks ``fake``."""
    provider = provider_of(fake, kind)
    # The chat of the fake is at one address, whatever the form of its batches.
    asked = Provider(name=PROVIDER, kind="compatible", base_url=fake.url, api_key="sk-test")
    route = Route(name="default", serves="chat", steps=(Step(provider=PROVIDER, model=MODEL),))
    routing = merged(Environment(), None, providers=[asked], routes=[route])
    admission = PostgresAdmission(database, None, PriceList())

    async def look() -> Seen:
        return Seen(routing)

    async def find(name: str) -> BatchProvider | None:
        if name != PROVIDER:
            return None
        return BatchProvider(
            name=name, kind=kind, base_url=str(provider.base_url), api_key=provider.api_key or "not-needed"
        )

    lane = BatchLane(database, gather=timedelta(seconds=0.5))  # all questions of a test come within this time
    control = Control(admission=admission, turns=Turns(admission), lane=lane)
    llm = controlled(look=look, options=OPTIONS, gate=Gate(), control=control)
    options = {"connect_timeout": 2.0, "timeout": 10.0} | batches
    return Parts(llm, PostgresBatches(database, provider_of=find, prices=PriceList(), **options), admission)


@dataclass
class Lane:
    """The batch lane of a test: puts jobs into it, lets batches go on, and reads what became of all."""

    jobs: Jobs
    fake: FakeOpenAI
    heard: Heard
    enqueued: list[UUID] = field(default_factory=list)

    async def put(
        self,
        count: int = 1,
        *,
        task: str = "Judge.",
        names: Sequence[str] | None = None,
        owner: UUID | None = None,
        **options: Any,
    ) -> list[UUID]:
        """Enqueue scoring jobs that ask different questions, in the batch lane unless told otherwise."""
        names = names or [f"profile {n}" for n in range(count)]
        profiles = await self.jobs.sql(
            "INSERT INTO scoring.profiles (name, owner_id) SELECT n, %s::uuid FROM unnest(%s::text[]) AS n "
            "RETURNING id",
            owner,
            list(names),
        )
        options = {"lane": "batch"} | options
        rows = [{"profile_id": str(one["id"]), "prompt": task, **options} for one in profiles]
        async with self.jobs.database.session() as session:
            made = await enqueue_many(session, SCORE, rows)
        self.enqueued += (ids := [one.id for one in made])
        return ids

    async def batches(self) -> list[dict[str, Any]]:
        """Return every batch job, oldest first."""
        return await self.jobs.sql("SELECT * FROM llm.batches ORDER BY id")

    async def batch(self) -> dict[str, Any]:
        """Return the only batch job that has sent anything; two that begin at once may leave one with nothing to do."""
        [row] = [row for row in await self.batches() if row["provider_batch_id"] and not row["cancels"]]
        return row

    async def requests(self) -> list[dict[str, Any]]:
        """Return every question in the lane, oldest first."""
        return await self.jobs.sql("SELECT * FROM llm.batch_requests ORDER BY id")

    async def calls(self) -> list[dict[str, Any]]:
        """Return the ledger."""
        return await self.jobs.sql("SELECT * FROM llm.calls ORDER BY id")

    async def states(self, jobs: Sequence[UUID] | None = None) -> list[str]:
        """Return the state of each scoring job."""
        rows = await self.jobs.sql(
            "SELECT j.status FROM unnest(%s::uuid[]) WITH ORDINALITY AS u (id, n) "
            "JOIN scoring.scoring_jobs AS j ON j.id = u.id ORDER BY n",
            list(jobs or self.enqueued),
        )
        return [row["status"] for row in rows]

    async def sent(self, count: int = 1) -> None:
        """Return when the provider has ``count`` batches, and their jobs wait for it."""

        async def waiting() -> bool:
            rows = await self.batches()
            return len(self.fake.batches.batches) >= count and all(
                row["status"] in {"at_provider", "completed", "cancelled", "failed"} for row in rows
            )

        await until(waiting, within=PATIENT)

    async def poll(self, *, wait: bool = True) -> None:
        """Let every batch be looked at now that waits for the provider, as a webhook would.

        With ``wait``, there is one at least.
        """

        async def at_provider() -> list[dict[str, Any]]:
            return [row for row in await self.batches() if row["status"] == "at_provider"]

        if wait:
            await until(at_provider, within=PATIENT)
        waiting = await at_provider()
        decisions = [Decision(job_id=row["id"], version=row["version"], into="due") for row in waiting]
        async with self.jobs.database.kernel() as conn:
            await decide(conn, Batch, decisions, actor=Actor(changed_by="test"))

    async def finish(self, status: str = "completed") -> None:
        """End the newest batch at the provider, and take its results."""
        self.fake.batches.finish(status)
        await self.poll()

    async def ended(self, jobs: Sequence[UUID] | None = None, *, state: str = "completed") -> None:
        """Return when all jobs have ended in ``state``."""

        async def all_ended() -> bool:
            return set(await self.states(jobs)) == {state}

        await until(all_ended, within=PATIENT)

    async def parked(self, count: int | None = None) -> None:
        """Return when all jobs sleep with a question in the lane."""

        async def asleep() -> bool:
            rows = await self.jobs.sql(
                "SELECT count(*) AS n FROM scoring.scoring_jobs WHERE status = 'pending' AND due_at > now() "
                "AND change_action = 'snooze'"
            )
            return bool(rows[0]["n"] >= (len(self.enqueued) if count is None else count))

        await until(asleep, within=PATIENT)

    async def take_over(self, jobs: Sequence[UUID] | None = None) -> None:
        """Let the time of these jobs in the lane be over: they wake and take the normal lane."""
        ids = list(jobs or self.enqueued)
        await self.jobs.sql(
            "UPDATE llm.lanes SET take_over_at = greatest(created_at, now() - interval '1 second') "
            "WHERE job_id = ANY (%s)",
            ids,
        )
        await self.jobs.sql(
            "UPDATE llm.batch_requests SET take_over_at = now() - interval '1 second' WHERE job_id = ANY (%s)", ids
        )
        await self.jobs.unguarded("UPDATE scoring.scoring_jobs SET due_at = NULL WHERE id = ANY (%s)", ids)

    async def paid(self) -> Mapping[str, Any]:
        """Return the sums of the ledger."""
        [row] = await self.jobs.sql(
            "SELECT coalesce(sum(input_tokens + output_tokens), 0)::int AS tokens, coalesce(sum(usd), 0) AS usd, "
            "count(*) FILTER (WHERE state = 'settled')::int AS settled, "
            "count(*) FILTER (WHERE state = 'failed')::int AS failed, "
            "count(*) FILTER (WHERE state = 'reserved')::int AS reserved FROM llm.calls"
        )
        return row


@asynccontextmanager
async def batching(
    url: str, registry: Registry, jobs: Jobs, fake: FakeOpenAI, *, kind: str = "compatible", **options: Any
) -> AsyncIterator[Lane]:
    """A mill whose language model is ``fake``, with a batch lane that gathers at once."""
    database = Database(url, changed_by=f"worker:{uuid.uuid4()}")
    parts = make_parts(database, fake, kind=kind, **options)
    try:
        async with mill(url, registry, parts.llm, batches=parts.batches, poll_seconds=0.05) as heard:
            yield Lane(jobs, fake, heard)
    finally:
        await parts.aclose()
        await database.close()
