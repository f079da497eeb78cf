"""Operations on several jobs at once, in any order: the store must do what the model says."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from models.lifecycle import Job
from tests.model.ledger import ExpectedJob
from tests.model.statements import ALL, Defences
from tests.model.store import RealStore
from tests.model.twin import HOUR, Claimed, Twin
from tests.support.proving.models import WaitingJob
from tests.support.proving.schema import MODELS
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.handler.registry import Registry
from workers.runtime.store.claim import Ticket
from workers.runtime.store.dispatch import Window

T = TypeVar("T")
WORKERS = (UUID(int=1), UUID(int=2))
FIRST_STAGES = ("proving.plain", "proving.keyed", "proving.first", "proving.ask")
STAGES = (*FIRST_STAGES, "proving.second", "proving.act")
DECISIONS = sorted({state for wait in WaitingJob.__lifecycle__.waits for state in wait.decides})
PAST, NOW, FUTURE = (datetime(year, 1, 1, tzinfo=UTC) for year in (2001, 2026, 2999))
OUTCOMES: tuple[Settlement, ...] = (
    *(Complete(), Retry("boom"), Fail("no\x00thing\nhelps"), Snooze(HOUR, "quota"), Snooze(timedelta(), "busy")),
    *(Release("drain"), Cancel("unwanted")),
)
WIDE = Window(slots=9, at_most=9, floor=9)

# 0 is the newest, so a failing example shrinks towards the newest jobs.
WHICH = st.lists(st.integers(0, 7), min_size=1, max_size=4)
JOB = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["a", "b"]),
        "priority": st.sampled_from([5, 1]),
        "due_at": st.sampled_from([*[None] * 6, PAST, FUTURE]),
        "idempotency_key": st.sampled_from([None, None, None, "once"]),
    }
).map(lambda job: job | {"key": "a"} if job["idempotency_key"] else job)  # one key, one request
WINDOW = st.builds(Window, slots=st.integers(0, 6), at_most=st.sampled_from([9, 9, 2]), floor=st.sampled_from([9, 1]))
STAGE, WORKER, MODEL = st.sampled_from(STAGES), st.sampled_from(WORKERS), st.sampled_from(MODELS)
SETTLED = st.lists(st.sampled_from(OUTCOMES), min_size=4, max_size=4)
MODE = st.sampled_from(["holding", "holding", "values", "stale"])
ATTEMPTS = st.sampled_from([2, 1, 0])
SELDOM = st.sampled_from([False, False, True])


def prefer(wanted: Sequence[T], items: Sequence[T]) -> Sequence[T]:
    """Return ``wanted``, or ``items`` if it is empty: rare cases must be tried often."""
    return wanted or items


def some(items: Sequence[T], which: Sequence[int]) -> list[T]:
    """Return the items at these positions, counted from the newest, each once."""
    return list({index % len(items): items[-1 - index % len(items)] for index in which}.values())


class StoreMachine(RuleBasedStateMachine):
    """Several jobs, two workers, one leader and an operator."""

    def __init__(self, store: RealStore, registry: Registry, tally: Counter[str], defences: Defences = ALL) -> None:
        super().__init__()
        self.twin = Twin(store, registry, tally, defences)

    @initialize(jobs=st.lists(JOB, min_size=2, max_size=3), attempts=ATTEMPTS)
    def two_workers_meet_some_jobs(self, jobs: list[dict[str, Any]], attempts: int) -> None:
        for worker in WORKERS:
            self.twin.send_heartbeat(worker)
        for stage in FIRST_STAGES:
            self.twin.enqueue(stage, jobs, attempts=attempts, now=NOW)

    # ── enqueue and dispatch ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(stage=st.sampled_from(FIRST_STAGES), jobs=st.lists(JOB, min_size=1, max_size=2), attempts=ATTEMPTS)
    def enqueue(self, stage: str, jobs: list[dict[str, Any]], attempts: int) -> None:
        self.twin.enqueue(stage, jobs, attempts=attempts, now=NOW)

    @rule(stage=STAGE, window=WINDOW, cursor=st.sampled_from([None, None, "a"]))
    def leader_dispatches(self, stage: str, window: Window, cursor: str | None) -> None:
        self.twin.dispatch(stage, window, cursor=cursor)

    @rule(stage=STAGE, long_out=SELDOM)
    def leader_unmarks(self, stage: str, *, long_out: bool) -> None:
        self.twin.unmark(stage, older_than=HOUR if long_out else timedelta())

    @precondition(lambda self: self.twin.sent)
    @rule(which=WHICH)
    def tickets_are_handed_back(self, which: list[int]) -> None:
        self.twin.hand_back(*self._tickets(which))

    def _busy(self, stage: str, *, running: bool) -> str:
        """Return ``stage`` if it has a ready (or running) job, otherwise another stage that has one, if any."""
        busy = {(entry.model, entry.row.status) for entry in self.twin.ledger.jobs.values()}
        for name in (stage, *reversed(STAGES)):
            of = self.twin.registry[name]
            if (of.model, of.step.running if running else of.step.ready) in busy:
                return name
        return stage

    def _tickets(self, which: list[int], *, held: bool = False) -> tuple[str, list[Ticket]]:
        """Return sent tickets of one stage; with ``held``, preferably those that can still be claimed."""
        rows = {job_id: entry.row for job_id, entry in self.twin.ledger.jobs.items()}
        wanted = [
            (stage, (job_id, version))
            for stage, (job_id, version) in self.twin.sent
            if held and rows[job_id].version == version and rows[job_id].ticket
        ]
        chosen = some(prefer(wanted, self.twin.sent), which)
        return chosen[0][0], [ticket for stage, ticket in chosen if stage == chosen[0][0]]

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.twin.sent)
    @rule(which=WHICH, worker=WORKER, handed_back=st.booleans())
    def worker_claims(self, which: list[int], worker: UUID, *, handed_back: bool) -> None:
        """Every message that was sent may arrive late, again, or after its ticket was taken back."""
        stage, tickets = self._tickets(which, held=handed_back)
        if handed_back:
            self.twin.hand_back(stage, tickets[:2])
        self.twin.claim(stage, tickets, worker)

    @precondition(lambda self: self.twin.runs)
    @rule(which=WHICH, worker=WORKER)
    def worker_claims_again_by_the_old_message(self, which: list[int], worker: UUID) -> None:
        """A message comes twice, the second time after its job was released and dispatched again."""
        runs = self._runs(which, stale=False)
        self.twin.settle(runs, [Release("drain")] * len(runs))
        self.twin.dispatch(runs[0].stage, WIDE)
        self.twin.check()
        self.twin.claim(runs[0].stage, [(run.job.id, run.job.version - 1) for run in runs], worker)

    @rule(stage=STAGE, which=WHICH, worker=WORKER)
    def worker_claims_what_is_sent(self, stage: str, which: list[int], worker: UUID) -> None:
        """Do what happens to nearly every job, so that the other rules have running jobs."""
        self._send_and_claim(stage, which, worker)

    @precondition(lambda self: self.twin.runs)
    @rule(which=WHICH, worker=WORKER, rescued=st.booleans(), outcomes=SETTLED, late=st.booleans())
    def worker_takes_over(
        self, which: list[int], worker: UUID, outcomes: list[Settlement], *, rescued: bool, late: bool
    ) -> None:
        """Running jobs are released or rescued, and run again; the earlier run may settle ``late``."""
        runs = self._runs(which, stale=False)
        if rescued:
            self.twin.silence(runs[0].worker)
            self.twin.rescue(runs[0].stage, patient=False)
        else:
            self.twin.settle(runs, [Release("drain")] * len(runs))
        self.twin.check()
        self.twin.pass_time(type(runs[0].job))
        self.twin.wake(type(runs[0].job))
        self._send_and_claim(runs[0].stage, which, worker)
        if late:
            self.twin.check()
            self.twin.settle(runs, outcomes)

    @rule(stage=STAGE, which=WHICH, worker=WORKER, outcomes=SETTLED, mode=MODE)
    def worker_runs_what_is_sent(
        self, stage: str, which: list[int], worker: UUID, outcomes: list[Settlement], mode: str
    ) -> None:
        """Run jobs and settle them, or settle other runs instead."""
        self._send_and_claim(stage, which, worker)
        self.twin.check()
        if self.twin.runs:
            self._settle(which, outcomes, mode)

    def _send_and_claim(self, stage: str, which: list[int], worker: UUID) -> None:
        stage = self._busy(stage, running=False)
        self.twin.dispatch(stage, WIDE)
        tickets = self._tickets(which, held=True) if self.twin.sent else (stage, [])
        self.twin.claim(*tickets, worker)

    @precondition(lambda self: self.twin.runs)
    @rule(index=st.integers(0, 7), percent=st.integers(1, 99), stale=st.booleans())
    def run_writes_progress(self, index: int, percent: int, *, stale: bool) -> None:
        self.twin.write_progress(self._runs([index], stale=stale)[0], percent)

    @precondition(lambda self: self.twin.runs)
    @rule(which=WHICH, outcomes=SETTLED, mode=MODE)
    def runs_settle(self, which: list[int], outcomes: list[Settlement], mode: str) -> None:
        self._settle(which, outcomes, mode)

    def _settle(self, which: list[int], outcomes: list[Settlement], mode: str) -> None:
        """Settle runs, also stale or settled ones, or two runs of one job."""
        if mode == "values":
            outcomes = [Complete({"result": {"of": n}}) for n in range(4)]
        self.twin.settle(self._runs(which, stale=mode == "stale"), outcomes)

    @precondition(lambda self: self.twin.runs)
    @rule(which=WHICH)
    def worker_looks_after_its_runs(self, which: list[int]) -> None:
        self.twin.look_after(self._runs(which, stale=True))

    def _runs(self, which: list[int], *, stale: bool) -> list[Claimed]:
        """Return runs of one worker and table, preferably with a valid fence, or stale ones of jobs that run again."""
        rows = {job_id: entry.row for job_id, entry in self.twin.ledger.jobs.items()}
        wanted = [
            run
            for run in self.twin.runs
            if rows[run.job.id].ticket and (rows[run.job.id].version != run.job.version) == stale
        ]
        first, *more = some(prefer(wanted, self.twin.runs), which)
        return [first, *(run for run in more if (type(run.job), run.worker) == (type(first.job), first.worker))]

    @rule(worker=WORKER, how=st.sampled_from(["alive", "silent", "gone"]))
    def worker_is(self, worker: UUID, how: str) -> None:
        {"alive": self.twin.send_heartbeat, "silent": self.twin.silence, "gone": self.twin.remove}[how](worker)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(model=MODEL, wakes=st.booleans())
    def time_passes(self, model: type[Job], *, wakes: bool) -> None:
        self.twin.pass_time(model)
        if wakes:
            self.twin.wake(model)

    @rule(model=MODEL)
    def leader_wakes(self, model: type[Job]) -> None:
        self.twin.wake(model)

    @rule(stage=STAGE, after=st.sampled_from(["silence", "hours", "nothing"]), worker=WORKER, patient=SELDOM)
    def leader_rescues(self, stage: str, after: str, worker: UUID, *, patient: bool) -> None:
        stage = self._busy(stage, running=True)
        if after == "silence":
            self.twin.silence(worker)
        elif after == "hours":
            self.twin.pass_time(self.twin.registry[stage].model)
        self.twin.rescue(stage, patient=patient)

    # ── waits ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(which=WHICH, worker=WORKER, stage=st.sampled_from(["proving.ask", "proving.act"]))
    def a_run_begins_to_wait(self, which: list[int], worker: UUID, stage: str) -> None:
        """A step ends in a wait, or its handler asks an agent."""
        self._send_and_claim(stage, which, worker)
        self.twin.check()
        chosen = {"proving.ask": Complete(), "proving.act": Complete(into="awaiting_agent", until=HOUR)}
        runs = [run for run in self.twin.runs if run.stage in chosen]
        if runs:
            self.twin.settle(runs[-1:], [chosen[runs[-1].stage]])

    @rule()
    def a_person_looks(self) -> None:
        self.twin.look(WaitingJob)

    @rule(which=WHICH, into=st.sampled_from(DECISIONS), fresh=st.booleans())
    def people_decide(self, which: list[int], into: str, *, fresh: bool) -> None:
        """People decide the waits that they see now or saw long ago; somebody else may have decided meanwhile."""
        if fresh:
            self.twin.look(WaitingJob)
        if self.twin.pages:
            self.twin.decide(some(self.twin.pages, which), into)

    @rule(worker=WORKER, into=st.sampled_from(["approved", "completed"]))
    def an_old_page_meets_a_later_wait(self, worker: UUID, into: str) -> None:
        """The agent was asked, answered, and was asked again; its first answer comes twice."""
        for stage in ("proving.ask", "proving.act"):
            self.a_run_begins_to_wait([0], worker, stage)
            self.twin.check()
            self.twin.look(WaitingJob)
            pages = [page for page in self.twin.pages if self.twin.is_current(page)]
            if pages:
                self.twin.decide(pages[-1:], "approved")
                self.twin.check()
        self.a_run_begins_to_wait([0], worker, "proving.act")
        self.twin.check()
        if self.twin.pages:
            self.twin.decide(self.twin.pages[-1:], into)

    @rule(worker=WORKER, into=st.sampled_from(DECISIONS))
    def a_decision_comes_too_late(self, worker: UUID, into: str) -> None:
        """The deadline has passed, and beat does not run."""
        self.a_run_begins_to_wait([0], worker, "proving.ask")
        self.twin.check()
        self.twin.look(WaitingJob)
        pages = [page for page in self.twin.pages if self.twin.is_current(page)]
        self.twin.end_waits(WaitingJob)
        if pages:
            self.twin.decide(pages[-1:], into)

    @rule(beat=st.booleans())
    def deadlines_pass(self, *, beat: bool) -> None:
        """Deadlines pass, with or without beat."""
        self.twin.end_waits(WaitingJob)
        if beat:
            self.twin.expire(WaitingJob)

    @rule()
    def beat_ends_waits(self) -> None:
        self.twin.expire(WaitingJob)

    # ── operator ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(index=st.integers(0, 7))
    def operator_cancels(self, index: int) -> None:
        self.twin.cancel(*self._ids([index]))

    @rule(which=WHICH)
    def operator_retries(self, which: list[int]) -> None:
        """An operator retries failed jobs, or other jobs if none has failed."""
        self.twin.retry(*self._ids(which, status="failed"))

    def _ids(self, which: list[int], *, status: str = "") -> tuple[type[Job], list[UUID]]:
        """Return jobs of one table, with this status if there are any."""
        jobs = list(self.twin.ledger.jobs.values())
        chosen: list[ExpectedJob] = some([entry for entry in jobs if entry.row.status == status] or jobs, which)
        return chosen[0].model, [entry.id for entry in chosen if entry.model is chosen[0].model]

    @rule(stage=st.sampled_from([*STAGES, "proving.unknown"]), pauses=SELDOM)
    def operator_pauses_or_resumes(self, stage: str, *, pauses: bool) -> None:
        (self.twin.pause if pauses else self.twin.resume)(stage)

    # ── what holds after each step ───────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def every_row_and_its_history_are_as_the_model_says(self) -> None:
        self.twin.check()

    @invariant()
    def no_key_has_more_out_than_its_limit(self) -> None:
        of = self.twin.registry["proving.keyed"]
        out = Counter(entry.key for entry in self.twin.ledger.of(of.model) if entry.row.ticket)
        assert of.limit is not None
        assert all(count <= of.limit.at_most for count in out.values())

    def teardown(self) -> None:
        self.twin.audit()
