"""The model: what the statements of the kernel do to one row, as pure functions.

``tests/model/world.py`` explores it with all failures that can happen. ``tests/model/machine.py`` compares it with the
real statements on a real Postgres. The legal transitions and the meaning of outcomes are not repeated here: they are
the kernel's own ``Lifecycle`` and ``decide``.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.lifecycle import Lifecycle, Step
from workers.runtime.store.settle import Settled


class ModelRow(NamedTuple):
    """One job. ``ticket``: it is dispatched; ``due``: it waits for a time; ``failed_in``: the state before it failed.

    ``over``: the deadline of its present wait has passed.
    """

    status: str
    version: int = 1
    retry_count: int = 0
    max_retries: int = 5
    ticket: bool = False
    due: bool = False
    owner: Hashable = None
    progress: int = 0
    started: bool = False
    ended: bool = False
    error: str | None = None
    action: str | None = "enqueue"
    reason: str | None = None
    failed_in: str | None = None
    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Defences:
    """The defences of a job. The kernel has all of them. A test removes one and checks that a law is broken."""

    fence_at_settle: bool = True
    running_at_settle: bool = True
    fence_at_progress: bool = True
    version_at_claim: bool = True
    ticket_at_claim: bool = True
    rescue_raises_version: bool = True
    launch_ends_older_run: bool = True
    launch_looks_for_twin: bool = True
    stopping_run_calls_nobody: bool = True
    tickets_expire: bool = True
    version_at_decision: bool = True
    deadline_at_decision: bool = True


ALL = Defences()


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements for jobs of one lifecycle. Each returns the row after it, or None if it changes nothing."""

    lifecycle: Lifecycle
    defences: Defences = ALL

    def mark(self, row: ModelRow) -> ModelRow | None:
        """Give the ticket, as ``pick`` does."""
        free = row.status in self.lifecycle.ready and not row.ticket and not row.due
        return row._replace(ticket=True) if free else None

    def unmark(self, row: ModelRow, step: Step) -> ModelRow | None:
        """Take an old ticket back."""
        return row._replace(ticket=False) if row.status == step.ready and row.ticket else None

    def unmark_exactly(self, row: ModelRow, version: int) -> ModelRow | None:
        """Take the ticket of this version back."""
        return row._replace(ticket=False) if row.version == version else None

    def wake(self, row: ModelRow) -> ModelRow | None:
        """Make the job due, because its time has come."""
        return row._replace(due=False) if row.status in self.lifecycle.ready and row.due else None

    def claim(self, row: ModelRow, step: Step, version: int, *, owner: Hashable) -> ModelRow | None:
        held = row.ticket or not self.defences.ticket_at_claim
        named = row.version == version or not self.defences.version_at_claim
        if not (row.status == step.ready and held and named):
            return None
        return self._move(row, step.running, "claim", owner=owner, ticket=row.ticket, started=True, progress=1)

    def claimed_before(self, row: ModelRow, step: Step, version: int, *, owner: Hashable) -> bool:
        """Return whether ``owner`` holds the job by an earlier claim of this ticket."""
        return row.status == step.running and row.version == version + 1 and row.owner == owner

    def set_progress(self, row: ModelRow, fence: int, percent: int) -> ModelRow | None:
        held = row.version == fence or not self.defences.fence_at_progress
        return row._replace(progress=percent) if held else None

    def settle(self, row: ModelRow, settled: Settled) -> ModelRow | None:
        held = row.version == settled.fence or not self.defences.fence_at_settle
        if not held or (row.status not in self.lifecycle.running and self.defences.running_at_settle):
            return None
        return self._move(
            row,
            settled.status,
            settled.action,
            reason=settled.reason,
            retry_count=settled.retry_count,
            due=settled.delay is not None,
            progress=row.progress if settled.progress is None else settled.progress,
            owner=row.owner if settled.terminal else None,
            started=row.started and settled.terminal,
            error=settled.error,
        )

    def rescue(self, row: ModelRow, step: Step, *, reason: str) -> ModelRow | None:
        """Rescue a run that nobody can finish; the caller checks leases and deadlines."""
        if row.status != step.running:
            return None
        spent = row.retry_count >= row.max_retries
        rescued = self._move(
            row,
            self.lifecycle.failed if spent else step.ready,
            "rescue",
            reason=reason,
            retry_count=min(row.retry_count + 1, row.max_retries),
            due=not spent and row.retry_count > 0,
            progress=row.progress if spent else 0,
            owner=row.owner if spent else None,
            started=row.started and spent,
            error=reason,
        )
        return rescued if self.defences.rescue_raises_version else rescued._replace(version=row.version)

    def cancel(self, row: ModelRow, *, reason: str) -> ModelRow | None:
        if row.status in self.lifecycle.terminal:
            return None
        return self._move(row, self.lifecycle.cancelled, "cancel", reason=reason, owner=row.owner, started=row.started)

    def decide(self, row: ModelRow, version: int, into: str, *, reason: str) -> ModelRow | None:
        """Decide the wait that the job was in at ``version``."""
        wait = self.lifecycle.wait(row.status)
        named = row.version == version or not self.defences.version_at_decision
        in_time = not row.over or not self.defences.deadline_at_decision
        if wait is None or not named or not in_time or into not in wait.decides:
            return None
        return self._leave(row, into, "decide", reason)

    def expire(self, row: ModelRow, *, reason: str) -> ModelRow | None:
        """End the wait if its deadline has passed."""
        wait = self.lifecycle.wait(row.status)
        return self._leave(row, wait.expires, "expire", reason) if wait and row.over else None

    def _leave(self, row: ModelRow, into: str, action: str, reason: str) -> ModelRow:
        progress = row.progress if into in self.lifecycle.terminal else 0
        error = reason if into in self.lifecycle.bad else None
        return self._move(row, into, action, reason=reason, progress=progress, error=error)

    def retry(self, row: ModelRow, *, reason: str) -> ModelRow | None:
        """Send a failed job back to the step in which it failed; if no attempt is left, grant one."""
        if row.status != self.lifecycle.failed:
            return None
        step = self.lifecycle.step_of(row.failed_in or "")
        assert step is not None
        ready = step.ready
        attempt, limit = row.retry_count + 1, row.max_retries
        if attempt > limit:
            reason, limit = f"{reason} (one attempt granted beyond {limit + 1})", attempt
        return self._move(row, ready, "retry", reason=reason, retry_count=attempt, max_retries=limit, progress=0)

    def _move(self, row: ModelRow, status: str, action: str, **kept: Any) -> ModelRow:
        """Make one transition. It clears ticket, due, owner, started, reason and over, except what is ``kept``."""
        gone = {"ticket": False, "due": False, "owner": None, "started": False, "reason": None, "over": False}
        return row._replace(
            status=status,
            version=row.version + 1,
            ended=status in self.lifecycle.terminal,
            action=action,
            failed_in=row.status if status == self.lifecycle.failed else None,
            **{**gone, **kept},
        )
