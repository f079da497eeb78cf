"""Real Flower with real workers: it shows jobs under their own ids, without their payloads, and can cancel them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener
from uuid import UUID

import pytest
from celery import Celery

from local.embedded.ports import choose_port
from tests.e2e.browser import chromium
from tests.e2e.system import Role, System

pytestmark = pytest.mark.e2e

SECRET = "sk-live-51HzTopSecretKey"
DATATABLE = (
    "/tasks/datatable?draw=1&start=0&length=500&search[value]=&order[0][column]=0&order[0][dir]=asc"
    "&columns[0][data]=name"
)


@dataclass(frozen=True, slots=True)
class Flower:
    """A running Flower that the tests read over HTTP."""

    url: str

    def page(self, path: str) -> str:
        """Return the page at ``path``, without any proxy."""
        with build_opener(ProxyHandler({})).open(self.url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def answers(self) -> bool:
        try:
            return self.page("/healthcheck") == "OK"
        except URLError:
            return False

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return every task that Flower lists, by id."""
        found: dict[str, dict[str, Any]] = json.loads(self.page("/api/tasks"))
        return found

    def task(self, job: UUID) -> dict[str, Any]:
        """Return what Flower shows of one job; empty if it does not know the job."""
        return self.tasks().get(str(job), {})


@pytest.fixture(scope="module")
def flower(system: System) -> Flower:
    """Flower as ``gristmill flower`` runs it, with two workers and a dispatcher."""
    port = choose_port()
    flower = Flower(f"http://127.0.0.1:{port}")
    system.start_gristmill("flower", GRISTMILL_FLOWER__PORT=str(port))
    system.staff(workers=2)
    system.wait(flower.answers, "Flower answers", seconds=60.0)
    system.wait(lambda: has_subscribed(system, flower), "Flower gets events of jobs")
    return flower


def has_subscribed(system: System, flower: Flower) -> bool:
    """Return whether Flower shows a new job. It subscribes to events some time after its first answer."""
    (job,) = system.enqueue("proving.plain", [{}])
    system.await_all([job])
    return bool(flower.task(job))


def test_jobs_are_listed_by_their_ids_with_stage_state_and_runtime(system: System, flower: Flower) -> None:
    """Each job is one task with its stage as name and its own state. Carrier tasks are not shown."""
    done, slow, failed = system.enqueue("proving.plain", [{"seconds": 0.3}, {"seconds": 15.0}, {"act": "permanent"}])
    (keyed,) = system.enqueue("proving.keyed", [{"key": "a"}])

    system.wait(lambda: flower.task(done).get("state") == "SUCCESS", "success is shown")
    system.wait(lambda: flower.task(slow).get("state") == "STARTED", "the running one is shown")
    system.wait(lambda: flower.task(failed).get("state") == "FAILURE", "failure is shown")
    system.wait(lambda: flower.task(keyed).get("state") == "SUCCESS", "the other stage is shown")

    listed = flower.tasks()
    assert flower.task(done)["name"] == flower.task(slow)["name"] == "proving.plain"
    assert flower.task(keyed)["name"] == "proving.keyed"
    assert 0.3 <= flower.task(done)["runtime"] < 5.0
    assert "completed" in flower.task(done)["result"]
    assert "told to give up" in flower.task(failed)["exception"]
    jobs = {str(row[0]) for row in system.ask("SELECT id FROM runtime.jobs")}
    assert listed.keys() <= jobs
    assert {task["name"] for task in listed.values()} <= {"proving.plain", "proving.keyed"}
    system.cancel([slow])
    system.wait(lambda: flower.task(slow).get("state") == "REVOKED", "cancelled is shown")


def test_retried_job_shows_how_often_and_why(system: System, flower: Flower) -> None:
    """A job between two attempts has the state RETRY, with the number of retries and the last error."""
    (job,) = system.enqueue("proving.plain", [{"act": "raise"}])

    system.wait(lambda: flower.task(job).get("state") == "RETRY", "the retry is shown")
    told = flower.task(job)

    assert told["retries"] >= 1
    assert "told to raise" in told["exception"]
    system.cancel([job])


CANCEL = "UPDATE {} SET status = 'cancelled', version = version + 1, completed_at = now() WHERE id = %s"
PAUSE = "UPDATE runtime.stages SET paused_at = {} WHERE name = 'proving.second'"


@pytest.fixture
def between_steps(system: System, flower: Flower) -> Iterator[list[UUID]]:
    """Three jobs that have ended their first step. The second stage is paused until the test resumes it."""
    system.run(PAUSE.format("now()"))
    jobs = system.enqueue("proving.first", [{"seconds": 0.2}] * 3)
    system.await_all(jobs, "halfway")
    yield jobs
    system.run(PAUSE.format("NULL"))


def test_success_is_shown_at_the_end_of_the_last_step_and_never_before(
    system: System, flower: Flower, between_steps: list[UUID]
) -> None:
    """Between its steps a job is STARTED, under the name of the next step. Then it fails, is cancelled, or succeeds."""
    good, bad, unwanted = between_steps

    def shown() -> set[tuple[str, str]]:
        return {(task.get("name", ""), task.get("state", "")) for task in map(flower.task, between_steps)}

    system.wait(lambda: shown() == {("proving.second", "STARTED")}, "the next step is shown")

    system.run(CANCEL.format("proving.two_step_jobs"), unwanted)
    system.run("UPDATE proving.two_step_jobs SET act = 'permanent' WHERE id = %s", bad)
    system.run(PAUSE.format("NULL"))

    system.wait(lambda: flower.task(unwanted)["state"] == "REVOKED", "cancelled is shown")
    system.wait(lambda: flower.task(bad)["state"] == "FAILURE", "failure is shown")
    system.wait(lambda: flower.task(good)["state"] == "SUCCESS", "success is shown")
    assert "told to give up" in flower.task(bad)["exception"]


def test_a_waiting_job_that_is_cancelled_in_sql_is_shown_as_revoked(system: System, flower: Flower) -> None:
    """No worker notices the cancel of a job that backs off, so without the follower it would stay in RETRY."""
    (job,) = system.enqueue("proving.plain", [{"act": "rate_limited"}])
    system.wait(lambda: flower.task(job).get("state") == "RETRY", "the retry is shown")

    system.run(CANCEL.format("proving.plain_jobs"), job)

    system.wait(lambda: flower.task(job)["state"] == "REVOKED", "cancelled is shown")


def test_a_failed_job_that_a_person_sends_back_is_shown_as_it_runs_again(system: System, flower: Flower) -> None:
    """After a failure Celery accepts only a retry."""
    (job,) = system.enqueue("proving.plain", [{"act": "permanent"}])
    system.wait(lambda: flower.task(job).get("state") == "FAILURE", "failure is shown")

    system.run(
        "UPDATE proving.plain_jobs SET status = 'pending', version = version + 1, completed_at = NULL, progress = 0,"
        " retry_count = retry_count + 1, act = 'complete', seconds = 4 WHERE id = %s",
        job,
    )

    system.wait(lambda: flower.task(job)["state"] == "STARTED", "it is shown as running")
    system.wait(lambda: flower.task(job)["state"] == "SUCCESS", "and as done")


def test_a_refused_message_is_shown_as_failed_with_the_reason(system: System, flower: Flower) -> None:
    """It has its own id, which its sender knows."""
    app = Celery("service", broker=system.redis_url, set_as_current=False)
    sent = app.send_task("gristmill.enqueue", args=["proving.plain", {"colour": SECRET}], queue="gristmill")
    app.close()

    system.wait(lambda: flower.tasks().get(sent.id, {}).get("state") == "FAILURE", "the refusal is shown")
    shown = flower.tasks()[sent.id]

    assert shown["name"] == "gristmill.enqueue"
    assert shown["exception"] == "refused: colour is not a field of this stage"
    assert SECRET not in flower.page(f"/task/{sent.id}")


def test_payload_never_reaches_flower(system: System, flower: Flower) -> None:
    """No page and no API answer of Flower has the payload of a job."""
    (job,) = system.enqueue("proving.plain", [{"key": SECRET}])
    (profile,) = system.ask("INSERT INTO scoring.profiles (name) VALUES (%s) RETURNING id", SECRET)[0]
    (scoring,) = system.enqueue("scoring.score", [{"profile_id": profile, "prompt": f"The key is {SECRET}"}])

    system.wait(lambda: flower.task(job).get("state") == "SUCCESS", "the job is shown")
    system.wait(lambda: flower.task(scoring), "the scoring job is shown")
    paths = ["/tasks", DATATABLE, "/workers", "/api/tasks", "/api/workers?refresh=1", "/metrics"]
    paths += [path for id_ in (job, scoring) for path in (f"/task/{id_}", f"/api/task/info/{id_}")]
    pages = {path: flower.page(path) for path in paths}

    assert str(job) in pages[DATATABLE]
    assert [path for path, page in pages.items() if SECRET in page] == []


@pytest.fixture
def running(system: System, flower: Flower) -> Iterator[tuple[Role, UUID]]:
    """A running job and its worker."""
    (job,) = system.enqueue("proving.plain", [{"act": "write", "seconds": 18.0}])
    system.await_all([job], "processing")
    system.wait(lambda: flower.task(job).get("state") == "STARTED", "the job is shown")
    yield next(role for role in system.living("worker") if system.held_by(role, [job])), job
    system.cancel([job])


@pytest.mark.browser
def test_revoke_in_a_browser_cancels_the_running_job(
    system: System, flower: Flower, running: tuple[Role, UUID]
) -> None:
    """A person finds the job by its id and presses Terminate. Within 2 s it is cancelled and its run is stopped."""
    worker, job = running
    with chromium() as browser:
        browser.open(f"{flower.url}/tasks")
        browser.waits_for(str(job))
        browser.reload_until(f"{flower.url}/task/{job}", "STARTED")
        browser.element("#task-terminate").click()
        system.wait(lambda: system.count("cancelled", [job]) == 1, "the job is cancelled", seconds=2.0)
        system.wait(lambda: worker.has_logged("run_stopped", job=job), "its run is stopped", seconds=2.0)
        browser.reload_until(f"{flower.url}/task/{job}", "REVOKED")
        hosts = browser.hosts()

    system.assert_settled_once([job], "cancelled")
    assert system.actions(job) == ["enqueue", "claim", "cancel"]
    assert system.history(job)[-1].change_reason == "revoked by remote control"
    assert hosts == {"127.0.0.1"}, "Flower's pages load nothing from elsewhere"
