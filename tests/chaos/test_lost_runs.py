"""What workers say about runs that they lost: what is not so is found, and so is what they do not say."""

import math
import time
from datetime import timedelta
from uuid import UUID

import pytest

from tests.chaos.evidence import Evidence, LostRun, Span, lost_runs
from tests.chaos.sound import A_MINUTE_BEFORE, Left, Reader, changed, claimed, judge


def lost(job_id: UUID | None, version: int = 2, *, by: str = "some log") -> LostRun:
    return LostRun(how="stale_write_rejected", job_id=job_id, fence=version, said_by=by)


@pytest.mark.parametrize(
    ("run", "times", "violations"),
    [
        (("rescued", 2), 1, 0),
        (("rescued", 2), 2, 1),
        (("stopped", 2), 1, 1),
        (("done", 2), 1, 1),
        (("retried", 4), 1, 1),
        (("rescued", 3), 1, 1),
        (("rescued", 9), 1, 1),
        (("waiting", 2), 1, 1),
    ],
)
async def test_run_called_lost_that_was_not_lost_to_others_is_found(
    left: Left, reader: Reader, run: tuple[str, int], times: int, violations: int
) -> None:
    """Taken by a rescue it is right, and once; a worker's own settle, no run at all and what it said before are not."""
    name, version = run
    said = [lost(left.jobs[name], version)] * times

    report = await judge(reader, changed(left, lambda e: e.lost_runs.extend(said)))
    verdict = report["runs called lost were lost, once"]

    assert (verdict.examined, verdict.violations) == (2 + times, violations)
    assert all(job.startswith(f"{left.jobs[name]} version {version}") for job in verdict.jobs)


async def test_line_about_a_lost_run_that_cannot_be_read_is_found(left: Left, reader: Reader) -> None:
    """It names no run, so nobody can say that it is right."""
    report = await judge(reader, changed(left, lambda e: e.lost_runs.append(lost(None))))

    assert report.failed == ["runs called lost were lost, once"]


async def test_runs_of_two_workers_called_lost_by_one_are_found(left: Left, reader: Reader) -> None:
    """A worker speaks of its own runs only."""
    stopped, hung = left.jobs["stopped"], left.jobs["hung"]

    def say(evidence: Evidence) -> None:
        evidence.lost_runs = [lost(stopped), lost(hung)]

    report = await judge(reader, changed(left, say))

    assert report.failed == ["runs called lost were lost, once"]


@pytest.mark.parametrize(
    ("within", "deaf", "judged"),
    [(0.0, [], ("stopped", "hung")), (3600.0, [], ("stopped",)), (0.0, [(0.0, math.inf)], ())],
)
async def test_lost_run_that_its_worker_never_called_so_is_found(
    left: Left, reader: Reader, within: float, deaf: list[Span], judged: tuple[str, ...]
) -> None:
    """Unless the worker was gone too soon to say so, or deaf when it claimed; the one that vanished never counts."""

    def keep_silent(evidence: Evidence) -> None:
        evidence.lost_runs, evidence.deaf = [], deaf

    report = await judge(reader, changed(left, keep_silent), called_within=timedelta(seconds=within))
    verdict = report["lost runs were called lost"]

    assert (verdict.examined, verdict.violations) == (len(judged), len(judged))
    assert {line.split()[0] for line in verdict.jobs} == {str(left.jobs[name]) for name in judged}


@pytest.mark.parametrize(("silent", "found"), [((0.5, 3.0), 1), ((0.5, math.inf), 0)])
async def test_run_lost_while_its_worker_was_deaf_is_called_lost_once_it_hears(
    left: Left, reader: Reader, silent: Span, found: int
) -> None:
    """A zombie says so when it wakes; while it is deaf nothing is asked of it, but of the others."""
    claimed_at, worker = await claimed(reader, left.jobs["stopped"])
    await reader.execute(A_MINUTE_BEFORE, [left.jobs["stopped"], 3])
    since, until = silent

    def freeze(evidence: Evidence) -> None:
        evidence.lost_runs = []
        evidence.spoke_until = {worker: time.time() + 60}
        evidence.deaf_alone = {worker: [(claimed_at - since, claimed_at + until)]}

    report = await judge(reader, changed(left, freeze))

    assert report["lost runs were called lost"].violations == 1 + found


LINE = '{"event": "run_stopped", "job_id": "01a2038b-cf6f-7edb-8624-b38ea64ddaed", "version": 2}'


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([LINE, LINE[:40]], [2]),
        ([LINE[:40], LINE], [0, 2]),
        (['{"event": "other", "reason": "run_stopped"}', LINE], [2]),
        (["Fatal Python error: Segmentation fault", LINE, ""], [2]),
    ],
)
def test_log_may_end_in_the_middle_of_a_line_and_nowhere_else(log: list[str], found: list[int]) -> None:
    """SIGKILL cuts the last line; one that cannot be read before it names no run."""
    assert [run.fence for run in lost_runs(log, said_by="log")] == found
