"""What the demonstration says in the end: the best and the worst with reasons, and what both rounds took."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cli.output import console
from workers.runtime.refusals import cut
from workers.scoring.rounds import Scored

OFFLINE = "offline-rubric-v1"
OFFLINE_NOTE = "rule-based, not an AI judgement"
SHOWN = 5
_WHY_CHARACTERS = 110
_TELLING = ("nothing", "says little", "coverage", "not mentioned", "forbidden")


@dataclass(frozen=True, slots=True)
class Round:
    """The jobs of one round at their end."""

    jobs: Sequence[Scored]

    @property
    def completed(self) -> list[Scored]:
        return [job for job in self.jobs if _number(job) is not None]

    @property
    def failed(self) -> list[Scored]:
        return [job for job in self.jobs if _number(job) is None]

    @property
    def cached(self) -> int:
        return sum(job.cached for job in self.jobs)

    @property
    def retries(self) -> int:
        return sum(job.retries for job in self.jobs)

    @property
    def took(self) -> timedelta:
        """From the first start to the last end, by the database's clock."""
        started = [job.started_at for job in self.jobs if job.started_at]
        return max(job.completed_at for job in self.jobs) - min(started) if started else timedelta()


def print_report(first: Round, again: Round) -> None:
    """Print the best and the worst of the first round, then both rounds in figures."""
    shown = console()
    ranked = sorted(first.completed, key=lambda job: (-_overall(job), job.name))
    for title, jobs in _parts(ranked):
        shown.print(f"\n[bold]{title}[/bold]")
        for job in jobs:
            for line in entry(job):
                shown.print(line, markup=False)
    for line in summary(first, again):
        shown.print(line, markup=False)


def summary(first: Round, again: Round) -> list[str]:
    """Return the lines below the tables."""
    lines = ["", _round_line("1st round", first), _round_line("2nd round", again)]
    if first.cached:
        lines.append("Answers of the 1st round are partly those of an earlier run: a question is asked once a day.")
    lines += [f"  failed: {job.name}: {job.error}" for job in (*first.failed, *again.failed)[:SHOWN]]
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
    asked = len(round_.completed) - round_.cached
    cached = f"{asked} evaluated, {round_.cached} answered from identical earlier jobs"
    rest = f"{round_.retries} retries, {len(round_.failed)} failed"
    return f"{name}: {len(round_.jobs)} jobs in {seconds:.2f} s{rate}; {cached}; {rest}"


def _parts(ranked: Sequence[Scored]) -> list[tuple[str, Sequence[Scored]]]:
    if len(ranked) <= 2 * SHOWN:
        return [("All", ranked)] if ranked else []
    return [("Best", ranked[:SHOWN]), ("Worst", ranked[-SHOWN:])]


def _overall(job: Scored) -> float:
    return _number(job) or 0.0


def _number(job: Scored) -> float | None:
    """Return the score of a job; None where it has none, or one that cannot be compared."""
    overall = (job.score or {}).get("overall")
    if isinstance(overall, bool) or not isinstance(overall, int | float) or not math.isfinite(overall):
        return None
    return float(overall)


def entry(job: Scored) -> list[str]:
    """Return two lines: the scores of a profile, and the reason that tells most."""
    criteria = (job.score or {})["criteria"]
    scores = " · ".join(f"{one['name']} {one['score']:.0f}" for one in criteria)
    return [f"{_overall(job):5.1f}  {cut(job.name, 24):<24}  {scores}", f"       {why(job)}"]


def why(job: Scored) -> str:
    """Return the reason that tells most: of the strongest criterion where the score is good, else of the weakest."""
    criteria = (job.score or {})["criteria"]
    good = _overall(job) >= 50  # noqa: PLR2004 - adequate, by the scale that evaluators are given
    telling = (max if good else min)(criteria, key=lambda one: (one["score"], one["weight"]))
    return cut(f"{telling['name']}: {_reason(telling['reasoning'])}", _WHY_CHARACTERS)


def _reason(reasoning: str) -> str:
    """Return a reason on one line; of the offline evaluator's measurements those a person can act on."""
    line = " ".join(reasoning.split())
    if not line.startswith(f"{OFFLINE_NOTE}: "):
        return line
    measured = line.removeprefix(f"{OFFLINE_NOTE}: ").split("; ")
    return "; ".join(part for part in measured if part.startswith(_TELLING))
