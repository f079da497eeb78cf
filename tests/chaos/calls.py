"""Check the calls of the provider: their job, their key, and whether the job had a run at that time.

**Calls after the end of a run.** If a job is cancelled or rescued, a call that is under way cannot be undone. The
worker learns of the end by a notification or at its next check of its fences; after that it starts no call. So a call
may start up to ``grace`` after the end: one second between two checks, and one second for a request that was sent and
that a busy provider has not read yet. Time in which the worker was isolated does not count (``Evidence.isolated`` and
``isolated_workers``, also if the connection to the provider is delayed). A wrong clock in a process under test does not
matter: the test's own process records the times of cancels and calls.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from tests.chaos.evidence import Call, Evidence

# After an isolation, a worker listens again within this time: its back-off, a connection and one check of its fences.
RELISTEN_SECONDS = 3.0


class CalledRun(NamedTuple):
    """One run of a job that made calls: from its claim to the next transition of the job, None if there is none yet."""

    claimed_at: float
    ended_at: float | None
    worker: str


class CallVerdict(NamedTuple):
    """The result of one rule: how many were examined, and which of them broke the rule."""

    rule: str
    examined: int
    wrong: Sequence[str]


def judge_calls(evidence: Evidence, runs: Mapping[UUID, Sequence[CalledRun]], *, grace: float) -> Iterator[CallVerdict]:
    """Yield the verdict of every rule about calls."""
    calls, unnamed = evidence.calls, evidence.requests - len(evidence.calls)
    yield CallVerdict("every call names its job", evidence.requests, [f"{unnamed} name none"] * abs(unnamed))
    yield _same_key_again(calls)
    yield _no_key_of_two(calls)
    yield _within_runs(evidence, runs, grace)
    yield _none_after_cancel(evidence, runs, grace)


def _same_key_again(calls: Sequence[Call]) -> CallVerdict:
    """A question of a job has the same key on every attempt. This also holds for every other repeated request."""
    # A job of this load has one question. A request that quotes an invalid answer is a different request each time.
    asked = [((call.job_id, call.body if call.again else None), call) for call in calls]
    repeated = Counter(request for request, _ in asked)
    wrong = _of_several((request, call.key) for request, call in asked)
    return CallVerdict(
        "a repeated request keeps its key",
        sum(times for times in repeated.values() if times > 1),
        [f"{call.job_id}" for request, call in asked if request in wrong],
    )


def _no_key_of_two(calls: Sequence[Call]) -> CallVerdict:
    """No key is used for two jobs, or for two different requests of one job."""
    wrong = _of_several((call.key, (call.job_id, call.body)) for call in calls)
    return CallVerdict("a key names one request", len({call.key for call in calls}), sorted(map(str, wrong)))


def _of_several(pairs: Iterable[tuple[Hashable, Hashable]]) -> set[Hashable]:
    """Return the first elements that are paired with more than one second element."""
    found: dict[Hashable, set[Hashable]] = defaultdict(set)
    for one, other in pairs:
        found[one].add(other)
    return {one for one, others in found.items() if len(others) > 1}


def _within_runs(evidence: Evidence, runs: Mapping[UUID, Sequence[CalledRun]], grace: float) -> CallVerdict:
    """Every call begins during a run of its job, or before the worker can know of the end of that run."""
    examined, wrong = 0, []
    for call in evidence.calls:
        begun = [run for run in runs.get(call.job_id, ()) if run.claimed_at <= call.started_at]
        ends = [(run.ended_at, run.worker) for run in begun if run.ended_at is not None]
        if len(ends) == len(begun) and all(call.started_at > end + grace for end, _ in ends):
            reachable = [
                _reachable_seconds(evidence, since=end, until=call.started_at, workers={by}) for end, by in ends
            ]
            if any(seconds <= grace for seconds in reachable):  # isolated: nothing is proven
                continue
            wrong.append(f"{call.job_id}")
        examined += 1
    return CallVerdict("calls belong to runs", examined, wrong)


def _none_after_cancel(evidence: Evidence, runs: Mapping[UUID, Sequence[CalledRun]], grace: float) -> CallVerdict:
    """Every call of a cancelled job begins before its worker can know of the cancel."""
    examined, wrong = 0, []
    for call in evidence.calls:
        cancelled_at = evidence.cancelled.get(call.job_id)
        if cancelled_at is None:
            continue
        if call.started_at > cancelled_at + grace:
            workers = {run.worker for run in runs.get(call.job_id, ())}
            reachable = _reachable_seconds(evidence, since=cancelled_at, until=call.started_at, workers=workers)
            if reachable <= grace:  # isolated: nothing is proven
                continue
            wrong.append(f"{call.job_id}")
        examined += 1
    return CallVerdict("no call after a cancel", examined, wrong)


def _reachable_seconds(evidence: Evidence, *, since: float, until: float, workers: set[str]) -> float:
    """Return for how many seconds between ``since`` and ``until`` none of ``workers`` was isolated."""
    seconds, listens_from = until - since, since
    for begin, end, worker in sorted(evidence.isolations(), key=lambda span: span[:2]):
        if worker is not None and worker not in workers:
            continue
        isolated_from, isolated_until = max(begin, listens_from), min(end + RELISTEN_SECONDS, until)
        if isolated_until > isolated_from:
            seconds -= isolated_until - isolated_from
            listens_from = isolated_until
    return seconds
