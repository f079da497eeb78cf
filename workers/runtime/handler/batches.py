"""The protocol of a provider's batches for the handlers of the batch lane. The worker gets its implementation.

So the handlers need neither a provider's library nor the tables of the lane.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from workers.runtime.handler.errors import Permanent


class NoBatchesError(Permanent):
    """The provider offers no batches, or none to this key: its questions take the normal lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The lines of a batch before it is sent. ``refused`` lines wait on, because of ``reason``, for ``delay``.

    ``left_over`` questions need another batch.
    """

    lines: int
    refused: int = 0
    left_over: int = 0
    reason: str | None = None
    delay: timedelta = timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderBatch:
    """A batch as its provider tells of it. ``results`` says where its results are: files, or the batch itself."""

    id: str
    status: str
    is_over: bool
    counts: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None
    results: tuple[str, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of the lines of a batch: answered, asked again in another batch, left to the normal lane.

    ``tokens`` are those that the answered lines used, by the provider's count of each.
    """

    answered: int = 0
    again: int = 0
    normal: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """One batch: the job that sends it, the job that its lines belong to, and whom it asks."""

    job_id: UUID
    lines_of: UUID
    provider: str
    model: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polls:
    """How often a batch is looked at: after ``first``, then after a tenth of its age, at most ``longest``."""

    first: timedelta = timedelta(minutes=1)
    longest: timedelta = timedelta(minutes=10)

    def delay(self, age: timedelta) -> timedelta:
        """Return how long to wait for the next look at a batch of this age."""
        return max(min(age / 10, self.longest), self.first)


class Batches(Protocol):
    """Gathers questions, sends them as batches, and takes the answers. Every step may be repeated."""

    @property
    def polls(self) -> Polls:
        """How often a batch is looked at."""

    async def gather(self, batch: Batching) -> Gathered:
        """Give the batch the questions that wait for it, and reserve what they may cost. A repeat adds more."""

    async def upload(self, batch: Batching) -> str | None:
        """Send the lines as a file; return its id, or None if this provider takes them with :meth:`create`."""

    async def find(self, batch: Batching, *, since: datetime) -> ProviderBatch | None:
        """Return the batch that an earlier run created after ``since``; None if there is none."""

    async def create(self, batch: Batching, input_file_id: str | None) -> ProviderBatch:
        """Create the batch at the provider."""

    async def look(self, batch: Batching, provider_batch_id: str) -> ProviderBatch:
        """Return how far the batch is."""

    async def cancel(self, batch: Batching, provider_batch_id: str) -> None:
        """Cancel the batch; lines that are answered already are still paid for."""

    async def count_wanted(self, batch: Batching) -> int:
        """Take out the lines whose jobs have ended; return how many are left."""

    async def take(self, batch: Batching, found: ProviderBatch, *, again: bool) -> Taken:
        """Keep and book the results that there are; with ``again``, ask lines without one in another batch."""

    async def let_go(self, batch: Batching, reason: str, *, again: bool, sent: bool) -> int:
        """Free the lines that nobody will answer; return how many. ``sent``: a try is counted for each."""

    async def wake(self, batch: Batching) -> int:
        """Wake the jobs whose answers are there; return how many are not snoozed yet."""

    async def aclose(self) -> None:
        """Release its connections."""
