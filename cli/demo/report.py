"""Print the best and the worst profiles with reasons, and the times of both rounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cli.output import make_console, print_wrapped
from cli.values import format_count
from workers.runtime.refusals import cut
from workers.scoring.rounds import Scored

OFFLINE = "offline-rubric-v1"
OFFLINE_NOTE = "rule-based, not an AI judgement"
MAX_SHOWN = 5
_MAX_REASON_CHARACTERS = 110
_SCORE_INDENT = 7  # the width of the score, in front of the name
_USEFUL_MEASUREMENTS = ("nothing", "says little", "coverage", "not mentioned", "forbidden")


@dataclass(frozen=True, slots=True)
class Round:
    """The ended jobs of one round."""

    jobs: Sequence[Scored]

    @property
    def completed(self) -> list[Scored]:
        return [job for job in self.jobs if _score(job) is not None]

    @property
    def failed(self) -> list[Scored]:
        return [job for job in self.jobs if _score(job) is None]

    @property
    def cached(self) -> int:
        return sum(job.cached for job in self.jobs)

    @property
    def retries(self) -> int:
        return sum(job.retries for job in self.jobs)

    @property
    def took(self) -> timedelta:
        """The time from the first start to the last end, by the clock of the database."""
        started = [job.started_at for job in self.jobs if job.started_at]
        return max(job.completed_at for job in self.jobs) - min(started) if started else timedelta()


def print_report(first: Round, again: Round) -> None:
    """Print the best and the worst profiles of the first round, then the figures of both rounds."""
    ranked = sorted(first.completed, key=lambda job: (-_overall(job), job.name))
    for title, jobs in _parts(ranked):
        make_console().print(f"\n[bold]{title}[/bold]")
        for job in jobs:
            scores, reason = entry_lines(job)
            print_wrapped([scores], indent=_SCORE_INDENT)
            print_wrapped([reason])
    print_wrapped(summary_lines(first, again))


def summary_lines(first: Round, again: Round) -> list[str]:
    """Return the figures of both rounds, the failed jobs and the evaluator."""
    lines = ["", _round_line("1st round", first), _round_line("2nd round", again)]
    if first.cached:
        lines.append("Some answers of the 1st round come from an earlier run: a question is asked once a day.")
    lines += [f"  failed: {job.name}: {job.error}" for job in (*first.failed, *again.failed)[:MAX_SHOWN]]
    models = sorted({(job.score or {}).get("model", "") for job in first.completed})
    if OFFLINE in models:
        lines.append(
            f"Evaluator: {OFFLINE}: {OFFLINE_NOTE}. Set OPENAI_API_KEY or OPENAI_BASE_URL to ask a language model."
        )
    elif models:
        lines.append(f"Evaluator: {', '.join(models)}")
    return lines


def _round_line(name: str, round_: Round) -> str:
    seconds = round_.took.total_seconds()
    rate = f" ({len(round_.jobs) / seconds:.0f} jobs/s)" if seconds > 0 else ""
    evaluated = len(round_.completed) - round_.cached
    answers = f"{evaluated} evaluated, {round_.cached} answered from identical earlier jobs"
    rest = f"{format_count(round_.retries, 'retry', 'retries')}, {len(round_.failed)} failed"
    return f"{name}: {format_count(len(round_.jobs), 'job')} in {seconds:.2f} s{rate}; {answers}; {rest}"


def _parts(ranked: Sequence[Scored]) -> list[tuple[str, Sequence[Scored]]]:
    if len(ranked) <= 2 * MAX_SHOWN:
        return [("All", ranked)] if ranked else []
    return [("Best", ranked[:MAX_SHOWN]), ("Worst", ranked[-MAX_SHOWN:])]


def _overall(job: Scored) -> float:
    return _score(job) or 0.0


def _score(job: Scored) -> float | None:
    """Return the score of a job; None if it has none, or one that cannot be compared."""
    overall = (job.score or {}).get("overall")
    if isinstance(overall, bool) or not isinstance(overall, int | float) or not math.isfinite(overall):
        return None
    return float(overall)


def entry_lines(job: Scored) -> tuple[str, str]:
    """Return two lines: the scores of a profile, and the main reason."""
    criteria = (job.score or {})["criteria"]
    scores = " · ".join(f"{one['name']} {one['score']:.0f}" for one in criteria)
    return f"{_overall(job):5.1f}  {cut(job.name, 24):<24}  {scores}", f"{'':<{_SCORE_INDENT}}{main_reason(job)}"


def main_reason(job: Scored) -> str:
    """Return the reason of the strongest criterion if the score is good, else that of the weakest."""
    criteria = (job.score or {})["criteria"]
    good = _overall(job) >= 50  # noqa: PLR2004 - adequate, by the scale that evaluators are given
    decisive = (max if good else min)(criteria, key=lambda one: (one["score"], one["weight"]))
    return cut(f"{decisive['name']}: {_shorten_reason(decisive['reasoning'])}", _MAX_REASON_CHARACTERS)


def _shorten_reason(reasoning: str) -> str:
    """Return a reason on one line. Of the measurements of the offline evaluator keep those that help a person."""
    line = " ".join(reasoning.split())
    if not line.startswith(f"{OFFLINE_NOTE}: "):
        return line
    measured = line.removeprefix(f"{OFFLINE_NOTE}: ").split("; ")
    return "; ".join(part for part in measured if part.startswith(_USEFUL_MEASUREMENTS))
