"""Batches whose lines are rows in Postgres, sent to the providers of the routes: the port of ``workers.batching``."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import IO

import structlog

from workers.llm.admission.prices import Prices
from workers.llm.batch_lane import lines
from workers.llm.batch_lane.apis import ENDPOINT, BatchApi, BatchProvider, NewBatch, batch_api
from workers.llm.batch_lane.lines import PER_TRANSACTION, Sleeper
from workers.llm.batch_lane.results import LineResult, results_of
from workers.runtime.database import Database
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.batches import Batching, Gathered, NoBatchesError, Polls, ProviderBatch, Taken
from workers.runtime.handler.registry import registry
from workers.runtime.store.wake import read_versions, wake

log = structlog.get_logger(__name__)

# What one batch may have: OpenAI's bounds, and smaller ones where the lines travel in one call.
MAX_LINES, MAX_BYTES = 50_000, 200_000_000
MAX_LINES_INLINE, MAX_BYTES_INLINE = 5_000, 50_000_000
# What was refused, or is beyond an allowance, is gathered again after this.
NEXT_GATHERING = timedelta(minutes=10)

DEFAULT_POLLS = Polls()

ProviderOf = Callable[[str], Awaitable[BatchProvider | None]]


class PostgresBatches:
    """The batches of one process. ``provider_of`` returns a provider by its name, None for one that cannot be asked.

    ``free`` frees what the database and ``provider_of`` hold.
    """

    def __init__(
        self,
        database: Database,
        *,
        provider_of: ProviderOf,
        prices: Prices,
        connect_timeout: float = 10.0,
        timeout: float = 600.0,
        most_lines: int = MAX_LINES,
        polls: Polls = DEFAULT_POLLS,
        free: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._provider_of = provider_of
        self._prices = prices
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._most_lines = most_lines
        self.polls = polls
        self._free = free
        self._apis: dict[BatchProvider, BatchApi] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def gather(self, batch: Batching) -> Gathered:
        """Give the batch the questions that wait for it, and reserve what they may cost."""
        provider = await self._provider(batch)
        most, most_bytes = MAX_LINES_INLINE, MAX_BYTES_INLINE
        if provider.takes_files:
            most, most_bytes = MAX_LINES, MAX_BYTES
        failpoint("batch_gather.before")
        most = min(most, self._most_lines)
        assigned = await lines.assign(
            self._database, batch.lines_of, batch.provider, batch.model, most=most, most_bytes=most_bytes
        )
        refused, why, warned = await lines.reserve(self._database, batch.lines_of, self._prices)
        failpoint("batch_gather.after")
        for warning in warned:
            log.warning("budget_warning", budget=warning["name"], share=warning["share"], passed=warning["threshold"])
        sent = await lines.count_sent(self._database, batch.lines_of)
        if sent and (assigned.left_over or refused):
            is_full = assigned.lines >= most and not refused
            seconds = 0.0 if is_full else NEXT_GATHERING.total_seconds()
            await lines.ensure_batch(self._database, batch.provider, batch.model, seconds=seconds)
        if why is not None:
            return Gathered(lines=sent, refused=refused, left_over=assigned.left_over, reason=str(why), delay=why.delay)
        reason = f"the allowance of enqueued tokens of model {batch.model} of provider {batch.provider} is used"
        waits = bool(assigned.left_over) and not sent
        return Gathered(
            lines=sent,
            left_over=assigned.left_over,
            reason=reason if waits else None,
            delay=NEXT_GATHERING if waits else timedelta(),
        )

    async def upload(self, batch: Batching) -> str | None:
        """Send the lines as a file; return its id, or None if this provider takes none."""
        provider = await self._provider(batch)
        if not provider.takes_files:
            return None
        with tempfile.TemporaryFile() as file:
            await self._write(batch, file)
            failpoint("batch_upload.before")
            found = await self._api(provider).upload(file, name=str(batch.lines_of))
            failpoint("batch_upload.after")
        return found

    async def find(self, batch: Batching, *, since: datetime) -> ProviderBatch | None:
        """Return the batch that an earlier run created; None if there is none."""
        provider = await self._provider(batch)
        return await self._api(provider).find(await self._new(batch, None), since=since)

    async def create(self, batch: Batching, input_file_id: str | None) -> ProviderBatch:
        """Create the batch at the provider."""
        provider = await self._provider(batch)
        with tempfile.TemporaryFile() as file:
            if not provider.takes_files:
                await self._write(batch, file)
            new = await self._new(batch, input_file_id, file)
            failpoint("batch_create.before")
            created = await self._api(provider).create(new)
            failpoint("batch_create.after")
        log.info(
            "batch_created", provider=batch.provider, model=batch.model, lines=new.lines, provider_batch_id=created.id
        )
        return created

    async def look(self, batch: Batching, provider_batch_id: str) -> ProviderBatch:
        """Return how far the batch is."""
        return await self._api(await self._provider(batch)).look(provider_batch_id)

    async def cancel(self, batch: Batching, provider_batch_id: str) -> None:
        """Cancel the batch at the provider."""
        await self._api(await self._provider(batch)).cancel(provider_batch_id)
        log.info("batch_cancelled", provider=batch.provider, model=batch.model, provider_batch_id=provider_batch_id)

    async def count_wanted(self, batch: Batching) -> int:
        """Take out the lines whose jobs have ended; return how many are left."""
        return await lines.release_ended(self._database, batch.lines_of)

    async def take(self, batch: Batching, found: ProviderBatch, *, again: bool) -> Taken:
        """Keep and book the results that there are."""
        provider = await self._provider(batch)
        answered = asked_again = normal = tokens = 0
        group: list[LineResult] = []

        async def keep() -> None:
            nonlocal answered, asked_again, normal, tokens
            failpoint("batch_take.before")
            good = [one for one in group if one.answer is not None]
            new = await lines.keep_answers(self._database, batch.lines_of, good) if good else set()
            answered += len(new)
            tokens += sum(_tokens(one) for one in good if one.custom_id in new)
            if bad := [_without_hope(one, not again) for one in group if one.answer is None]:
                more, rest = await lines.keep_failures(self._database, batch.lines_of, bad, counted=True)
                asked_again, normal = asked_again + more, normal + rest
            failpoint("batch_take.after")
            group.clear()

        async for line in self._api(provider).results(found):
            group += results_of([line])
            if len(group) >= PER_TRANSACTION:
                await keep()
        if group:
            await keep()
        if asked_again:
            await lines.ensure_batch(self._database, batch.provider, batch.model, seconds=0.0)
        return Taken(answered=answered, again=asked_again, normal=normal, tokens=tokens)

    async def let_go(self, batch: Batching, reason: str, *, again: bool, sent: bool) -> int:
        """Free the lines that nobody will answer; return how many."""
        freed, asked_again = await lines.let_go_unsent(self._database, batch.lines_of, reason), 0
        while names := await lines.unanswered(self._database, batch.lines_of):
            failed = [LineResult(custom_id=name, failure=reason, is_hopeless=not again) for name in names]
            more, rest = await lines.keep_failures(self._database, batch.lines_of, failed, counted=sent)
            freed, asked_again = freed + more + rest, asked_again + more
        if asked_again:
            seconds = 0.0 if sent else NEXT_GATHERING.total_seconds()
            await lines.ensure_batch(self._database, batch.provider, batch.model, seconds=seconds)
        return freed

    async def wake(self, batch: Batching) -> int:
        """Wake the jobs whose answers are there; return how many have not gone to sleep yet."""
        awake, last = 0, None
        while found := await lines.sleepers(self._database, batch.lines_of, after=last):
            last = found[-1].job_id
            failpoint("batch_wake.before")
            awake += await self._wake(found)
            failpoint("batch_wake.after")
        return awake

    async def aclose(self) -> None:
        """Close the connections."""
        for api in self._apis.values():
            await api.aclose()
        if self._free is not None:
            await self._free()

    async def _wake(self, jobs: Sequence[Sleeper]) -> int:
        """Wake these jobs; return how many of them still run, and so will go to sleep after this."""
        by_stage: dict[str, list[Sleeper]] = {}
        for job in jobs:
            by_stage.setdefault(job.stage, []).append(job)
        running = 0
        for stage, some in by_stage.items():
            if stage not in registry:  # a job of another release, which wakes by its due time
                log.warning("batch_wakes_nobody", stage=stage, jobs=len(some))
                continue
            model = registry[stage].model
            async with self._database.kernel() as conn, conn.transaction():
                # A run that parks its job settles under its version: the job then has the next one.
                await wake(conn, model, [(job.job_id, job.version + 1) for job in some])
                versions = await read_versions(conn, model, [job.job_id for job in some])
                done = [job for job in some if versions.get(job.job_id) != job.version]
                await lines.note_awake(conn, done)
            running += len(some) - len(done)
        return running

    async def _new(self, batch: Batching, input_file_id: str | None, file: IO[bytes] | None = None) -> NewBatch:
        count = await lines.count_sent(self._database, batch.lines_of)
        return NewBatch(
            name=str(batch.lines_of), model=batch.model, lines=count, input_file_id=input_file_id, file=file
        )

    async def _write(self, batch: Batching, file: IO[bytes]) -> None:
        """Write the lines as JSON Lines, from the beginning of ``file``, and go back there."""
        async for custom_id, body in lines.read_bodies(self._database, batch.lines_of):
            head = f'{{"custom_id":"{custom_id}","method":"POST","url":"{ENDPOINT}","body":'
            file.write(f"{head}{body}}}\n".encode())
        file.seek(0)

    async def _provider(self, batch: Batching) -> BatchProvider:
        provider = await self._provider_of(batch.provider)
        if provider is None:
            raise NoBatchesError(f"provider {batch.provider!r} is not there any more, or cannot be asked")
        return provider

    def _api(self, provider: BatchProvider) -> BatchApi:
        api = self._apis.get(provider)
        if api is None:
            api = batch_api(provider, connect_timeout=self._connect_timeout, timeout=self._timeout)
            for old in [one for one in self._apis if one.name == provider.name]:  # its key or address has changed
                closing = asyncio.create_task(self._apis.pop(old).aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            self._apis[provider] = api
        return api


def _tokens(result: LineResult) -> int:
    return (result.tokens("prompt_tokens") or 0) + (result.tokens("completion_tokens") or 0)


def _without_hope(result: LineResult, hopeless: bool) -> LineResult:  # noqa: FBT001 - a pure helper
    return LineResult(custom_id=result.custom_id, failure=result.failure, is_hopeless=result.is_hopeless or hopeless)
