"""Jobs that a pause or a limit would refuse stay in Postgres, by real processes with the logins of their kinds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from local.logins import make_logins
from tests.e2e.system import System
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e

# A job that was sent once and answered: nobody claimed it to be refused.
SENT_ONCE = ("enqueue", "claim", "complete")
MAX_TRIES = 100
LIMIT = ("limits", "set", "--provider", "third", "--requests-per-minute")


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenAI]:
    """Both providers of the tests."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="module", autouse=True)
def _started(system: System, fake: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A worker and a dispatcher; the route ``default`` goes to one provider, ``fast`` and ``third`` to others."""
    folder = tmp_path_factory.mktemp("roles")
    urls = {one.kind: one.url for one in make_logins(system.database_url, folder, new_passwords=True)}
    for name, route in (("main", "default"), ("other", "fast"), ("third", "third")):
        llm(system, "providers", "add", name, "--kind", "compatible", "--base-url", fake.url)
        llm(system, "routes", "add", route, "--step", f"{name}/model-of-{name}")
    system.start_gristmill("dispatcher", DATABASE_URL=urls["dispatcher"])
    system.await_ready([system.start_gristmill("worker", DATABASE_URL=urls["worker"])])


@pytest.fixture(autouse=True)
def _open(system: System) -> Iterator[None]:
    """No test leaves a pause or a limit behind."""
    yield
    system.run("UPDATE llm.providers SET paused_at = NULL, paused_reason = NULL")
    system.run("DELETE FROM llm.limits")


def gristmill(system: System, *words: str) -> str:
    """Run one command; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        env=system.environment_of_commands(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def llm(system: System, *words: str) -> str:
    return gristmill(system, "llm", *words)


def score(system: System, count: int, about: str, **more: Any) -> list[UUID]:
    """Enqueue questions that nobody else asks."""
    [[profile]] = system.ask("INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id")
    jobs = [{"profile_id": profile, "prompt": f"{about} {n}", **more} for n in range(count)]
    return system.enqueue("scoring.score", jobs)


def assess(system: System, name: str, **more: Any) -> list[UUID]:
    criteria = [{"name": "clarity", "weight": 1}]
    request = {
        "serverName": name,
        "assessmentType": "llm_rubric",
        "options": {"criteria": criteria, "content": f"a text of {name}", **more},
    }
    return system.enqueue("assessment.assess", [{"assessment_id": name, "request_data": request}])


def reasons(system: System, jobs: Sequence[UUID]) -> set[str]:
    """Return why these jobs wait, as the view says."""
    rows = system.ask("SELECT DISTINCT wait_reason FROM runtime.jobs WHERE id = ANY (%s)", list(jobs))
    return {str(reason) for (reason,) in rows}


def await_gates(system: System, reason: str, model: str) -> None:
    """Return once the dispatcher keeps jobs of both stages back for ``reason``. Those that come before wait in runs."""
    await_gate(system, reason, lambda n: score(system, 1, f"is {model} closed yet, {n}?", model_name=model))
    await_gate(system, reason, lambda n: assess(system, f"is {model} closed yet, {n}?", model=model))


def await_gate(system: System, reason: str, enqueue: Callable[[int], list[UUID]]) -> UUID:
    """Enqueue jobs until one is held back; return that one."""
    for n in range(MAX_TRIES):
        [job] = enqueue(n)
        system.wait(partial(is_held_or_sent, system, job, reason), "it is held or sent")
        if is_held(system, job, reason):
            return job
    raise AssertionError(f"nothing is held back: {reason}")


def is_held_or_sent(system: System, job: UUID, reason: str) -> bool:
    return is_held(system, job, reason) or "claim" in system.actions(job)


def is_held(system: System, job: UUID, reason: str) -> bool:
    return all(one.startswith(f"held back: {reason}") for one in reasons(system, [job]))


def await_held(system: System, jobs: Sequence[UUID], reason: str) -> None:
    """Return once each of these jobs says that it is held back for ``reason``, and nobody has claimed any."""
    what = f"held back: {reason}"
    system.wait(
        lambda: all(one.startswith(what) for one in reasons(system, jobs)), f"{what}, not {reasons(system, jobs)}"
    )
    assert {tuple(system.actions(job)) for job in jobs} == {("enqueue",)}


def test_a_paused_provider_leaves_its_jobs_in_postgres_and_resume_sends_them(system: System) -> None:
    """Of three stages. Jobs of another route pass; nobody claims a held job; `jobs why` and `stages` name the pause."""
    llm(system, "providers", "pause", "main", "--reason", "too dear")
    await_gates(system, "provider main is paused", "gpt-3.5-turbo")
    [[project]] = system.ask("INSERT INTO operations.projects (name) VALUES ('p') RETURNING id")
    align = partial(system.enqueue, "analytics.align", [{"project_id": project}])
    aligned = [await_gate(system, "provider main is paused", lambda _: align())]
    held = [*score(system, 5, "held"), *assess(system, "held")]
    passing = score(system, 5, "passing", model_name="route:fast")

    system.await_all(passing)
    paused = "provider main is paused by operators (too dear)"
    await_held(system, [*held, *aligned], paused)
    why = gristmill(system, "jobs", "why", str(held[0]))
    assert f"held back: {paused}" in why
    assert "gristmill llm resume main" in why
    assert "held back: gpt-3.5-turbo: provider main" in " ".join(gristmill(system, "stages").split())
    stages = {one["stage"]: one for one in json.loads(gristmill(system, "stages", "--json"))}
    for stage in ("scoring.score", "assessment.assess", "analytics.align"):
        assert [(gate["free"], gate["reason"]) for gate in stages[stage]["gates"] if not gate["free"]] == [(0, paused)]
    assert "main is asked again" in llm(system, "resume", "main")

    system.await_all(held)
    system.wait(lambda: "claim" in system.actions(aligned[0]), "the analysis begins")
    assert {tuple(system.actions(job)) for job in [*held, *passing]} == {SENT_ONCE}


def test_a_full_limit_leaves_jobs_in_postgres_and_a_higher_one_sends_them(system: System, fake: FakeOpenAI) -> None:
    """They say which limit, how much of it is used and until when. No more calls are made than it allows."""
    llm(system, *LIMIT, "3")
    system.run("UPDATE llm.limits SET window_seconds = 3600")  # a minute may pass within this test
    before = fake.calls
    first = score(system, 3, "first", model_name="route:third")
    system.await_all(first)
    full = "requests per hour of provider third: 3 of 3 used"
    await_gates(system, full, "route:third")

    held = [
        *score(system, 5, "limited", model_name="route:third"),
        *assess(system, "limited", model="route:third"),
    ]
    passing = score(system, 5, "not limited", model_name="route:fast")
    system.await_all(passing)
    await_held(system, held, full)

    [until] = {one.rpartition("until ")[2] for one in reasons(system, held)} or {""}
    assert until.endswith("UTC")
    assert fake.calls - before == len(first) + len(passing)
    system.run("UPDATE llm.limits SET window_seconds = 60")
    llm(system, *LIMIT, "1000")
    system.await_all(held)
    assert {tuple(system.actions(job)) for job in [*held, *passing]} == {SENT_ONCE}
