"""Do each operation in the real store and in the model, and compare their answers, rows and histories."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from models.lifecycle import Job
from tests.model.ledger import ExpectedJob, ExpectedTransition, Ledger
from tests.model.statements import ALL, Defences, ModelRow, Statements
from tests.model.store import BEAT, LEADER, OPERATOR, SERVICE, RealStore, StoredRow
from tests.support.proving.schema import MODELS
from workers.runtime.actor import Actor
from workers.runtime.handler.outcomes import Complete, Retry, Settlement
from workers.runtime.handler.registry import Registry
from workers.runtime.store.claim import Ticket, claim, find_lost_fences, read_claimed_before, set_progress
from workers.runtime.store.decide import Decision
from workers.runtime.store.decide import decide as decide_waits
from workers.runtime.store.dispatch import Window, pick, unmark, unmark_exactly, wake_due
from workers.runtime.store.expire import expire
from workers.runtime.store.intervene import cancel, pause, resume, retry
from workers.runtime.store.processes import WorkerRow, beat_heart, remove_worker, survey
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.store.settle import Settled, find_settled, settle
from workers.runtime.store.verify import verify_history
from workers.runtime.worker.settled_row import settled_row

SLOTS = 4
PERSON = "anna"
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
LEASE_SECONDS = 3_600.0


class Claimed(NamedTuple):
    """One run in the memory of a worker. It may settle at any time and many times, also when it is stale."""

    stage: str
    job: Job
    worker: UUID

    @property
    def name(self) -> str:
        return f"worker:{self.worker}"


class Twin:
    """The store and its model. Every method is one statement of the kernel, or one way for time to pass."""

    def __init__(self, store: RealStore, registry: Registry, tally: Counter[str], defences: Defences = ALL) -> None:
        self.statements = {model: Statements(model.__lifecycle__, defences) for model in MODELS}
        self.store, self.registry, self.tally = store, registry, tally
        self.ledger = Ledger(tally)
        self.sent: list[tuple[str, Ticket]] = []
        self.runs: list[Claimed] = []
        self.pages: list[Ticket] = []
        store.empty()

    def check(self) -> None:
        """Compare every row and every transition."""
        rows, history = self.store.everything()

        assert rows == {entry.id: _stored(entry) for entry in self.ledger.jobs.values()}
        assert history == [
            (job_id, *change) for job_id, entry in sorted(self.ledger.jobs.items()) for change in entry.history
        ]
        self.tally["step"] += 1

    def audit(self) -> None:
        """Run the kernel's own check of the history; it must find no violation."""
        checks = self.store.run(verify_history(self.store.by(OPERATOR)))
        assert not [check for check in checks if check.violations]
        assert sum(check.jobs for check in checks) == len(self.ledger.jobs)

    # ── enqueue and dispatch ─────────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, stage: str, jobs: Sequence[dict[str, Any]], *, attempts: int, now: datetime) -> None:
        enqueued = self.store.enqueue(stage, jobs)

        model = self.registry[stage].model
        fresh = [one.id for one in enqueued if one.created]
        # Such a long timeout that no deadline passes during the test.
        self.store.update(model, f"max_retries = {attempts}, timeout_seconds = 100000", fresh)
        created = self.store.created_at(model, fresh)
        for one, job in zip(enqueued, jobs, strict=True):
            key = job["idempotency_key"]
            known = self.ledger.keys.get((model, key))
            assert (one.created, one.id) == ((False, known) if known else (True, one.id))
            self.tally["enqueued before"] += not one.created
            if one.created:
                row = ModelRow(model.__lifecycle__.initial, max_retries=attempts, due=job["due_at"] is not None)
                history = [ExpectedTransition(None, 1, stage, None, row.status, "enqueue", None, SERVICE)]
                entry = ExpectedJob(
                    one.id, model, self.statements[model], row, job["priority"], job["key"], created[one.id], history
                )
                entry.time_came = row.due and job["due_at"] < now
                self.ledger.jobs[one.id] = entry
                self.ledger.keys |= {(model, key): one.id} if key else {}

    def dispatch(self, stage: str, window: Window, *, cursor: str | None = None) -> int:
        """Dispatch; if the stage is paused, take all tickets back. Return the number of tickets given."""
        leader, of = self.store.by(LEADER), self.registry[stage]
        capacity = self.store.run(survey(leader))[stage]
        alive = [silent for silent in self.ledger.silent.values() if not silent]
        assert (capacity.paused, capacity.slots) == (stage in self.ledger.paused, SLOTS * len(alive))
        if capacity.paused:
            self.unmark(stage, older_than=timedelta())
            return 0

        picked = self.store.run(pick(leader, of, window, cursor=cursor)).jobs

        tickets = [(one.id, one.version) for one in picked]
        assert tickets == self.ledger.pick(of, window, cursor=cursor, by=LEADER)
        self.sent += [(stage, ticket) for ticket in tickets]
        return len(tickets)

    def unmark(self, stage: str, *, older_than: timedelta) -> None:
        of = self.registry[stage]

        count = self.store.run(unmark(self.store.by(LEADER), of, older_than=older_than))

        old = [entry.id for entry in self.ledger.of(of.model) if entry.long_out or not older_than]
        taken = self.ledger.each(old, lambda entry: entry.statements.unmark(entry.row, of.step), by=LEADER)
        assert count == len(taken)
        self.tally["unmark"] += count

    def hand_back(self, stage: str, tickets: Sequence[Ticket]) -> None:
        self.store.run(unmark_exactly(self.store.by(LEADER), self.registry[stage].model, tickets))

        for job_id, version in tickets:
            entry = self.ledger.jobs[job_id]
            held = entry.row.ticket
            if self.ledger.apply(entry, entry.statements.unmark_exactly(entry.row, version), by=LEADER):
                self.tally["unmark exactly"] += held

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def claim(self, stage: str, tickets: Sequence[Ticket], worker: UUID) -> None:
        of, name = self.registry[stage], f"worker:{worker}"

        jobs = self.store.run(claim(self.store.by(name), of, tickets, owner=worker))

        fences = {(job.id, job.version) for job in jobs}
        assert fences == self.ledger.claim(of, tickets, owner=worker, by=name)
        assert all(job.retry_count == self.ledger.jobs[job.id].row.retry_count for job in jobs)
        self.runs += [Claimed(stage, job, worker) for job in jobs]

    def write_progress(self, run: Claimed, percent: int) -> None:
        fence, entry = run.job.version, self.ledger.jobs[run.job.id]

        held = self.store.run(set_progress(self.store.by(run.name), type(run.job), (run.job.id, fence), percent))

        assert held == self.ledger.apply(entry, entry.statements.set_progress(entry.row, fence, percent), by=run.name)
        self.tally["progress" if held else "progress refused"] += 1

    def settle(self, runs: Sequence[Claimed], outcomes: Sequence[Settlement]) -> None:
        """Settle in one statement, as a worker settles its runs of one table."""
        rows = self._rows(runs, outcomes)
        model, name = type(runs[0].job), runs[0].name

        taken = self.store.run(settle(self.store.by(name), model, rows))

        assert taken == self.ledger.settle(rows, by=name)
        self._hold_time(model)

    def _rows(self, runs: Sequence[Claimed], outcomes: Sequence[Settlement]) -> list[Settled]:
        return [
            settled_row(run.job, self.registry[run.stage].step, type(run.job).__lifecycle__, outcome, draw=lambda: 0.5)
            for run, outcome in zip(runs, outcomes, strict=False)
        ]

    def look_after(self, runs: Sequence[Claimed]) -> None:
        """Ask what a worker asks after a lost answer: which settles and claims are its own, which fences are lost."""
        name, of = runs[0].name, self.registry[runs[0].stage]
        conn, fences = self.store.by(name), [(run.job.id, run.job.version) for run in runs]

        settled: set[UUID] = set()
        for outcome in (Complete(), Retry("again")):
            rows = self._rows(runs, [outcome] * len(runs))
            found = self.store.run(find_settled(conn, of.model, rows, changed_by=name))
            assert found == self.ledger.settled_by(rows, name)
            settled |= found
        lost = self.store.run(find_lost_fences(conn, of.model, fences))
        tickets = [(job_id, fence - 1) for job_id, fence in fences]
        claimed = self.store.run(read_claimed_before(conn, of, tickets, owner=runs[0].worker))

        jobs = self.ledger.jobs
        assert lost == {job_id for job_id, fence in fences if jobs[job_id].row.version != fence}
        assert {(job.id, job.version - 1) for job in claimed} == {
            (job_id, version)
            for job_id, version in tickets
            if jobs[job_id].statements.claimed_before(jobs[job_id].row, of.step, version, owner=runs[0].worker)
        }
        self.tally.update({"settled by": len(settled), "lost": len(lost), "claimed before": len(claimed)})

    def send_heartbeat(self, worker: UUID) -> None:
        row = WorkerRow(id=worker, name="w", queues=("proving",), slots=SLOTS, lease_seconds=LEASE_SECONDS)
        self.store.run(beat_heart(self.store.by(f"worker:{worker}"), row, running=0))
        self.ledger.silent[worker] = False

    def silence(self, worker: UUID) -> None:
        self.store.sql("UPDATE runtime.workers SET heartbeat_at = now() - interval '2 hours' WHERE id = %s", worker)
        self.ledger.silent |= {worker: True} if worker in self.ledger.silent else {}

    def remove(self, worker: UUID) -> None:
        """Delete the row of the worker, also if its jobs still run."""
        self.store.run(remove_worker(self.store.by(f"worker:{worker}"), worker))
        self.ledger.silent.pop(worker, None)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hold_time(self, model: type[Job]) -> None:
        """Move the due times of a back-off into the future, so that no job becomes due by itself."""
        if waiting := [entry.id for entry in self.ledger.of(model) if entry.row.due and not entry.time_came]:
            self.store.update(model, "due_at = now() + interval '1 hour'", waiting)

    def pass_time(self, model: type[Job]) -> None:
        """Let the due times of waiting jobs pass; make tickets and runs nine days older."""
        entries = list(self.ledger.of(model))
        past = (
            "due_at = CASE WHEN due_at IS NOT NULL THEN now() END, dispatched_at = dispatched_at - interval '9 days', "
            "deadline_at = deadline_at - interval '9 days'"
        )
        self.store.update(model, past, [entry.id for entry in entries])
        for entry in entries:
            entry.time_came = entry.row.due
            entry.long_out = entry.row.ticket
            entry.overdue = entry.row.status in model.__lifecycle__.running

    def wake(self, model: type[Job]) -> None:
        count = self.store.run(wake_due(self.store.by(LEADER), model))

        come = [entry.id for entry in self.ledger.of(model) if entry.time_came]
        woken = self.ledger.each(come, lambda entry: entry.statements.wake(entry.row), by=LEADER)
        assert count == len(woken)
        self.tally["wake"] += count

    def rescue(self, stage: str, *, patient: bool) -> None:
        """Rescue. A ``patient`` leader has led too short to judge leases and deadlines."""
        of = self.registry[stage]

        count = self.store.run(rescue_expired(self.store.by(LEADER), of, led_for=SECOND if patient else 2 * HOUR))

        assert count == self.ledger.rescue(of, patient=patient, by=LEADER)
        self._hold_time(of.model)

    # ── waits ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, model: type[Job]) -> None:
        """Let a person look at the waiting jobs; the person may decide then or much later."""
        for entry in self.ledger.of(model):
            page = (entry.id, entry.row.version)
            if entry.row.status in model.__lifecycle__.waiting and page not in self.pages:
                self.pages.append(page)

    def is_current(self, page: Ticket) -> bool:
        """Return whether the job is still in the wait that the page shows."""
        row = self.ledger.jobs[page[0]].row
        return row.version == page[1] and not row.over

    def decide(self, pages: Sequence[Ticket], into: str) -> None:
        """Decide the waits of these pages, also of old ones, all in one statement."""
        model = self.ledger.jobs[pages[0][0]].model
        decisions = [
            Decision(job_id=id_, version=version, into=into, reason="so", until=HOUR) for id_, version in pages
        ]

        decided = self.store.run(
            decide_waits(self.store.by(OPERATOR), model, decisions, actor=Actor(changed_by=PERSON))
        )

        for (job_id, version), one in zip(pages, decided, strict=True):
            entry = self.ledger.jobs[job_id]
            took = self.ledger.apply(entry, entry.statements.decide(entry.row, version, into, reason="so"), by=PERSON)
            assert one.won == took
            self.tally["decide" if took else "decide refused"] += 1
        for one in decided:
            assert (one.status, one.version) == self.ledger.jobs[one.decision.job_id].row[:2] or one.won

    def end_waits(self, model: type[Job]) -> None:
        """Let the deadlines of all waiting jobs pass."""
        waiting = [entry for entry in self.ledger.of(model) if entry.row.status in model.__lifecycle__.waiting]
        if waiting:
            self.store.end_waits(model, [entry.id for entry in waiting])
        for entry in waiting:
            entry.row = entry.row._replace(over=True)

    def expire(self, model: type[Job]) -> None:
        """Expire, as beat does; it may have been away for long."""
        count = self.store.run(expire(self.store.by(BEAT), model))

        over = [entry for entry in self.ledger.of(model) if entry.row.over]
        reasons = dict(self.store.reasons(model, [entry.id for entry in over]))
        taken = self.ledger.each(
            [entry.id for entry in over],
            lambda one: one.statements.expire(one.row, reason=reasons[one.id]),
            by=BEAT,
        )
        assert all(reason.startswith("waited for ") for reason in reasons.values())
        assert count == len(taken)
        self.tally["expire"] += count

    # ── operator ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, model: type[Job], ids: Sequence[UUID]) -> None:
        done = self.store.run(cancel(self.store.by(OPERATOR), model, ids, reason="unwanted"))

        assert done == self._operated(ids, lambda one: one.statements.cancel(one.row, reason="unwanted"))

    def retry(self, model: type[Job], ids: Sequence[UUID]) -> None:
        done = self.store.run(retry(self.store.by(OPERATOR), model, ids, reason="again"))

        assert done == self._operated(ids, lambda one: one.statements.retry(one.row, reason="again"))
        self.tally["operator retries"] += len(done)

    def _operated(self, ids: Sequence[UUID], change: Callable[[ExpectedJob], ModelRow | None]) -> set[UUID]:
        return self.ledger.each(ids, change, by=OPERATOR)

    def pause(self, stage: str) -> None:
        assert self.store.run(pause(self.store.by(OPERATOR), stage, by=OPERATOR)) == (stage in self.registry)
        self.ledger.paused.add(stage)

    def resume(self, stage: str) -> None:
        assert self.store.run(resume(self.store.by(OPERATOR), stage)) == (stage in self.registry)
        self.ledger.paused.discard(stage)


def _stored(entry: ExpectedJob) -> StoredRow:
    row = entry.row
    assert isinstance(row.owner, UUID | None)
    return StoredRow(
        status=row.status,
        version=row.version,
        retry_count=row.retry_count,
        max_retries=row.max_retries,
        ticket=row.ticket,
        due=row.due,
        owner=row.owner,
        progress=row.progress,
        started=row.started,
        ended=row.ended,
        under_deadline=row.status in entry.model.__lifecycle__.running,
        waits=row.status in entry.model.__lifecycle__.waiting,
        error=row.error,
        result=entry.result,
    )
