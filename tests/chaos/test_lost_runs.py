"""The checker finds runs that workers logged as lost without reason, and lost runs that they did not log."""

import math
import time
from datetime import timedelta
from uuid import UUID

import pytest

from tests.chaos.evidence import Evidence, LostRun, Span, lost_runs
from tests.chaos.sound import A_MINUTE_BEFORE, Reader, SoundRun, changed, claimed, judge


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
    left: SoundRun, reader: Reader, run: tuple[str, int], times: int, violations: int
) -> None:
    """A rescued run is logged as lost once. A run settled by its worker, no run, and a second log entry are wrong."""
    name, version = run
    said = [lost(left.jobs[name], version)] * times

    report = await judge(reader, changed(left, lambda e: e.lost_runs.extend(said)))
    verdict = report["runs called lost were lost, once"]

    assert (verdict.examined, verdict.violations) == (2 + times, violations)
    assert all(job.startswith(f"{left.jobs[name]} version {version}") for job in verdict.jobs)


async def test_line_about_a_lost_run_that_cannot_be_read_is_found(left: SoundRun, reader: Reader) -> None:
    """The line names no run, so it cannot be checked."""
    report = await judge(reader, changed(left, lambda e: e.lost_runs.append(lost(None))))

    assert report.failed == ["runs called lost were lost, once"]


async def test_runs_of_two_workers_called_lost_by_one_are_found(left: SoundRun, reader: Reader) -> None:
    """A worker logs only its own runs."""
    stopped, hung = left.jobs["stopped"], left.jobs["hung"]

    def say(evidence: Evidence) -> None:
        evidence.lost_runs = [lost(stopped), lost(hung)]

    report = await judge(reader, changed(left, say))

    assert report.failed == ["runs called lost were lost, once"]


@pytest.mark.parametrize(
    ("within", "isolated", "judged"),
    [(0.0, [], ("stopped", "hung")), (3600.0, [], ("stopped",)), (0.0, [(0.0, math.inf)], ())],
)
async def test_lost_run_that_its_worker_never_called_so_is_found(
    left: SoundRun, reader: Reader, within: float, isolated: list[Span], judged: tuple[str, ...]
) -> None:
    """Exceptions: the worker ended too early to log it, or was isolated when it claimed, or sent no more heartbeats."""

    def keep_silent(evidence: Evidence) -> None:
        evidence.lost_runs, evidence.isolated = [], isolated

    report = await judge(reader, changed(left, keep_silent), log_lost_run_within=timedelta(seconds=within))
    verdict = report["lost runs were called lost"]

    assert (verdict.examined, verdict.violations) == (len(judged), len(judged))
    assert {line.split()[0] for line in verdict.jobs} == {str(left.jobs[name]) for name in judged}


@pytest.mark.parametrize(("silent", "found"), [((0.5, 3.0), 1), ((0.5, math.inf), 0)])
async def test_run_lost_by_an_isolated_worker_is_logged_after_the_isolation(
    left: SoundRun, reader: Reader, silent: Span, found: int
) -> None:
    """An isolated worker need not log the run until its isolation is over; the other workers must."""
    claimed_at, worker = await claimed(reader, left.jobs["stopped"])
    await reader.execute(A_MINUTE_BEFORE, [left.jobs["stopped"], 3])
    since, until = silent

    def freeze(evidence: Evidence) -> None:
        evidence.lost_runs = []
        evidence.spoke_until = {worker: time.time() + 60}
        evidence.isolated_workers = {worker: [(claimed_at - since, claimed_at + until)]}

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
    """SIGKILL cuts the last line. An earlier line that cannot be read is reported without a run."""
    assert [run.fence for run in lost_runs(log, said_by="log")] == found
