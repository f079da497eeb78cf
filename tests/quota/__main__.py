"""``make quota``: prove on real servers, for as long as it takes, that calls keep to a quota and outlast an outage.

It prints a table for ``docs/llm-measured.md``. Exit code 1: a promise was broken.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.system import System, running_system
from tests.quota import outage, proof
from tests.quota.server import quota_server
from workers.operations.keyring import new_key

# A job of scoring takes about 2,200 requested tokens.
TOKENS_PER_REQUEST = 2_250
MAX_REFUSED, MIN_USED = 0.01, 0.95
FREE = "free"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.quota", description=__doc__)
    parser.add_argument("--rpm", type=int, default=30, help="requests per minute that the server allows")
    parser.add_argument("--jobs", type=int, action="append", help="how many jobs; may be repeated (60 and 600)")
    parser.add_argument("--tokens", action="store_true", help="a quota of tokens, as large, in place of requests")
    parser.add_argument("--composite", action="store_true", help="one assessment of 60 questions at 40 a minute")
    parser.add_argument("--outage", type=float, metavar="MINUTES", help="each way to be away for so long, one by one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gristmill-quota-"))
    _say(f"logs in {folder}")
    if options.outage:
        return 0 if _outlast(folder, minutes=options.outage) else 1
    if options.composite:
        return 0 if _assess(folder) else 1
    sizes = options.jobs or [60, 600]
    return 0 if _keep(folder, sizes, per_minute=options.rpm, tokens=options.tokens) else 1


def _keep(folder: Path, sizes: Sequence[int], *, per_minute: int, tokens: bool) -> bool:
    """Run so many jobs against a quota; return whether every promise held."""
    quota = per_minute * TOKENS_PER_REQUEST if tokens else per_minute
    server_of = {"tokens_per_minute": quota} if tokens else {"requests_per_minute": quota}
    limit = ("--requested-tokens-per-minute" if tokens else "--requests-per-minute", str(quota))
    heads = ("jobs", "completed", "attempts spent", "runs", "answered", "refused", "quota used", "minutes")
    _say(f"quota: {quota:,} {'tokens' if tokens else 'requests'} a minute")
    _say(_row(heads) + f"\n{_row(['---'] * len(heads))}")
    held = True
    with _staffed(folder) as system:
        for jobs in sizes:
            route = f"limited{jobs}"
            with quota_server(folder, **server_of) as server:
                proof.offer(system, route, server.url, *limit)
                seconds = 240.0 + 90.0 * jobs / per_minute
                became = proof.run(system, server, route=route, jobs=jobs, beside=FREE, seconds=seconds)
            use, used = became.use, became.use.used_share
            cells: list[object] = [became.jobs, became.completed, became.attempts, became.runs, use.answered]
            cells += [f"{use.refused} ({use.refused_share:.1%})", "–" if used is None else f"{used:.1%}"]
            _say(_row([*cells, f"{use.seconds / 60:.1f}"]))
            _say(f"{became.others} jobs of another route were done while {became.left} of these were not\n")
            held &= (became.completed, became.attempts, use.paid_twice) == (jobs, 0, 0)
            held &= use.refused_share <= MAX_REFUSED and (used is None or used >= MIN_USED)
    return held


def _assess(folder: Path) -> bool:
    with _staffed(folder) as system, quota_server(folder, requests_per_minute=40) as server:
        proof.offer(system, "composite", server.url)
        became = proof.assess(system, server, route="composite", seconds=600.0)
    use = became.use
    _say(f"{use.answered} answers, {use.paid_twice} paid twice, {use.refused} refused, {use.seconds / 60:.1f} minutes")
    return (became.completed, became.attempts, use.answered, use.paid_twice) == (1, 0, proof.QUESTIONS, 0)


def _outlast(folder: Path, *, minutes: float) -> bool:
    heads = ("phase", "jobs", "completed", "attempts spent", "calls in vain", "resumed after", "what waiting jobs said")
    _say(_row(heads) + f"\n{_row(['---'] * len(heads))}")
    held = True
    with running_system(folder) as system, outage.provider("main") as one:
        system.environment["GRISTMILL_SECRET_KEYS"] = new_key()
        proof.start_staff(system, **outage.SETTINGS)
        proof.offer(system, one.name, one.url)
        system.await_all(proof.enqueue(system, one.name, 8), seconds=120.0)
        for phase in outage.PHASES:
            became = outage.go_through(system, one, phase, lasts=minutes * 60, seconds=600.0)
            cells = [became.phase, became.jobs, became.completed, became.attempts, became.calls]
            _say(_row([*cells, f"{became.resumed_seconds:.0f} s", "; ".join(became.reasons)]))
            held &= (became.completed, became.attempts, became.silent, became.ended_meanwhile) == (became.jobs, 0, 0, 0)
    return held


@contextmanager
def _staffed(folder: Path) -> Iterator[System]:
    """Yield a system with its workers and a route without a quota."""
    with running_system(folder) as system, quota_server(folder) as free:
        proof.start_staff(system)
        proof.offer(system, FREE, free.url)
        yield system


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
