"""Jobs of two routes at once: one has a quota server's quota, the other one has none. What came of it, counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.e2e.system import Role, System
from tests.quota.server import QuotaServer, Use, use_of

WORKERS = 4
MODEL = "judge"
PARTS, CRITERIA = 10, 6
QUESTIONS = PARTS * CRITERIA
_PROFILES = "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, %s) AS n RETURNING id"
_ROWS = """SELECT count(*) FILTER (WHERE status = 'completed'), sum(retry_count)
             FROM runtime.jobs WHERE id = ANY (%s)"""
_LEDGER = """SELECT count(*) FROM llm.calls
              WHERE provider = %s AND state IN ('settled', 'unpriced') AND job_id = ANY (%s)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the jobs that have a quota, and of the others beside them.

    ``attempts`` are those that were spent beyond the first, ``runs`` how often jobs were claimed, ``ledger`` the paid
    calls of the ledger, ``left`` how many jobs with a quota had not ended when the last of the others had.
    """

    jobs: int
    completed: int
    attempts: int
    runs: int
    ledger: int
    use: Use
    others: int
    left: int


def start_staff(system: System, **settings: str) -> list[Role]:
    """Start four workers and a dispatcher as an operator does; return them once they are ready."""
    dispatcher = system.start_gristmill("dispatcher", **settings)
    workers = [system.start_gristmill("worker", **settings) for _ in range(WORKERS)]
    system.await_ready(workers)
    return [dispatcher, *workers]


def offer(system: System, name: str, url: str, *limits: str) -> None:
    """Add a provider, a route to it that has the same name, and its limits."""
    system.gristmill("llm", "providers", "add", name, "--kind", "compatible", "--base-url", url)
    system.gristmill("llm", "routes", "add", name, "--step", f"{name}/{MODEL}")
    if limits:
        system.gristmill("llm", "limits", "set", "--provider", name, *limits)


def enqueue(system: System, route: str, count: int) -> list[UUID]:
    """Enqueue scoring jobs of a route: each about a profile of its own, each with another question."""
    profiles = [row[0] for row in system.ask(_PROFILES, count)]
    return system.enqueue(
        "scoring.score",
        [
            {"profile_id": profile, "prompt": f"Question of {profile}", "model_name": f"route:{route}"}
            for profile in profiles
        ],
    )


def run(system: System, server: QuotaServer, *, route: str, jobs: int, beside: str, seconds: float) -> Outcome:
    """Enqueue ``jobs`` of ``route`` and then 60 of the route ``beside``; return what became of them."""
    limited = enqueue(system, route, jobs)
    others = enqueue(system, beside, QUESTIONS)
    system.await_all(others, seconds=seconds)
    left = len(limited) - system.count("completed", limited)
    system.await_all(limited, seconds=seconds)
    return outcome(system, server, route, limited, others=len(others), left=left)


def assess(system: System, server: QuotaServer, *, route: str, seconds: float) -> Outcome:
    """Enqueue one composite assessment of 60 questions; return what became of it."""
    [job] = system.enqueue("assessment.assess", [composite(route)])
    system.await_all([job], seconds=seconds)
    return outcome(system, server, route, [job], others=0, left=0)


def outcome(system: System, server: QuotaServer, route: str, jobs: list[UUID], *, others: int, left: int) -> Outcome:
    """Return what became of ``jobs``, by their rows, their history, the ledger and the server's log."""
    [(completed, attempts)] = system.ask(_ROWS, jobs)
    [(ledger,)] = system.ask(_LEDGER, route, jobs)
    tokens = server.tokens_per_minute is not None
    quota = server.tokens_per_minute or server.requests_per_minute
    assert quota is not None
    return Outcome(
        jobs=len(jobs),
        completed=completed,
        attempts=int(attempts),
        runs=sum(step.change_action == "claim" for steps in system.histories(jobs).values() for step in steps),
        ledger=ledger,
        use=use_of(server.seen(), quota=quota, tokens=tokens),
        others=others,
        left=left,
    )


def composite(route: str) -> Mapping[str, Any]:
    """Return the request of a composite assessment that asks 60 questions, each apart."""
    criteria: Sequence[Mapping[str, Any]] = [{"name": f"Criterion {n}"} for n in range(CRITERIA)]
    parts = [
        {
            "assessmentType": "llm_rubric",
            "name": f"part {place}",
            "options": {
                "content": f"Part {place} of a server.",
                "criteria": criteria,
                "separately": True,
                "model": f"route:{route}",
            },
        }
        for place in range(PARTS)
    ]
    return {
        "assessment_id": f"composite of {route}",
        "request_data": {"serverName": "a server", "assessmentType": "composite", "options": {"parts": parts}},
    }
