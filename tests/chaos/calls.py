"""Judge what the provider was asked: by whom, under which key, and whether there was a run to ask for.

**After the end.** A call that is under way when its job is cancelled or taken cannot be taken back, and the worker
learns of it by a bell, or at its next look at its fences. What is promised is that a worker that has been told starts
no call. So a call may start up to ``grace`` after the end: one second, the longest a worker goes without a look, and
one for a request that was sent and not yet read by a busy provider. Only time in which the worker could hear counts
(``Evidence.deaf`` and ``deaf_alone``; a road to the provider that holds requests up belongs there too). How a process
under test reads its clock does not matter: cancel and call are timed by the machine that judges.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from tests.chaos.evidence import Call, Evidence

# A worker that can hear again listens anew within this: its back-off, a connection, and one look at its fences.
HEARS_AGAIN_SECONDS = 3.0


class CalledRun(NamedTuple):
    """One run of a job that called: from its claim to its job's next transition, None where there is none yet."""

    claimed_at: float
    ended_at: float | None
    worker: str


class Judged(NamedTuple):
    """What one rule found: how many it held to it, and which of these broke it."""

    rule: str
    examined: int
    wrong: Sequence[str]


def judge_calls(evidence: Evidence, runs: Mapping[UUID, Sequence[CalledRun]], *, grace: float) -> Iterator[Judged]:
    """Yield the verdict of every rule about calls."""
    calls, unnamed = evidence.calls, evidence.requests - len(evidence.calls)
    yield Judged("every call names its job", evidence.requests, [f"{unnamed} name none"] * abs(unnamed))
    yield _same_key_again(calls)
    yield _no_key_of_two(calls)
    yield _within_runs(evidence, runs, grace)
    yield _none_after_cancel(evidence, runs, grace)


def _same_key_again(calls: Sequence[Call]) -> Judged:
    """A job's question is asked under one key on every attempt, and so is any other request that is repeated."""
    # A job of this workload has one question; what is asked again quotes an answer, which is another each time.
    asked = [((call.job_id, call.body if call.again else None), call) for call in calls]
    repeated = Counter(request for request, _ in asked)
    wrong = _of_several((request, call.key) for request, call in asked)
    return Judged(
        "a repeated request keeps its key",
        sum(times for times in repeated.values() if times > 1),
        [f"{call.job_id}" for request, call in asked if request in wrong],
    )


def _no_key_of_two(calls: Sequence[Call]) -> Judged:
    """No two jobs share a key, and neither do two requests of one."""
    wrong = _of_several((call.key, (call.job_id, call.body)) for call in calls)
    return Judged("a key names one request", len({call.key for call in calls}), sorted(map(str, wrong)))


def _of_several(pairs: Iterable[tuple[Hashable, Hashable]]) -> set[Hashable]:
    """Return what is paired with more than one thing."""
    found: dict[Hashable, set[Hashable]] = defaultdict(set)
    for one, other in pairs:
        found[one].add(other)
    return {one for one, others in found.items() if len(others) > 1}


def _within_runs(evidence: Evidence, runs: Mapping[UUID, Sequence[CalledRun]], grace: float) -> Judged:
    """Every call begins in some run of its job, or before its worker can have been told of that run's end."""
    examined, wrong = 0, []
    for call in evidence.calls:
        begun = [run for run in runs.get(call.job_id, ()) if run.claimed_at <= call.started_at]
        ends = [(run.ended_at, run.worker) for run in begun if run.ended_at is not None]
        if len(ends) == len(begun) and all(call.started_at > end + grace for end, _ in ends):
            heard = [_heard_for(evidence, since=end, until=call.started_at, workers={by}) for end, by in ends]
            if any(seconds <= grace for seconds in heard):  # deaf: it may be right or wrong
                continue
            wrong.append(f"{call.job_id}")
        examined += 1
    return Judged("calls belong to runs", examined, wrong)


def _none_after_cancel(evidence: Evidence, runs: Mapping[UUID, Sequence[CalledRun]], grace: float) -> Judged:
    """Every call of a job that was cancelled begins before a worker that could hear was told."""
    examined, wrong = 0, []
    for call in evidence.calls:
        cancelled_at = evidence.cancelled.get(call.job_id)
        if cancelled_at is None:
            continue
        if call.started_at > cancelled_at + grace:
            workers = {run.worker for run in runs.get(call.job_id, ())}
            heard = _heard_for(evidence, since=cancelled_at, until=call.started_at, workers=workers)
            if heard <= grace:  # deaf: it may be right or wrong
                continue
            wrong.append(f"{call.job_id}")
        examined += 1
    return Judged("no call after a cancel", examined, wrong)


def _heard_for(evidence: Evidence, *, since: float, until: float, workers: set[str]) -> float:
    """Return for how many seconds, from ``since`` to ``until``, each of ``workers`` could hear."""
    seconds, listens_from = until - since, since
    for begin, end, worker in sorted(evidence.deafness(), key=lambda span: span[:2]):
        if worker is not None and worker not in workers:
            continue
        deaf_from, deaf_until = max(begin, listens_from), min(end + HEARS_AGAIN_SECONDS, until)
        if deaf_until > deaf_from:
            seconds -= deaf_until - deaf_from
            listens_from = deaf_until
    return seconds
