"""A worker is killed during an analysis. The next one continues it and asks about no record again that is saved."""

import base64
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.crashes import Crash, arm
from tests.e2e.system import System
from tests.support.fakes.alignment import record_in
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.paths import SAMPLES
from workers.runtime.failpoints import Point

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

GUIDELINES = SAMPLES / "guidelines.pdf"
RECORDS = 150
# The first checkpoint saves the number of records. Each later one saves some results.
DEATHS: tuple[tuple[Point, int], ...] = (
    ("checkpoint.before", 2),
    ("checkpoint.before", 4),
    ("checkpoint.after", 3),
    ("settle.before", 1),
)
ADD = """
    INSERT INTO operations.data_records ("projectId", type, source, content)
    SELECT %s, 'TASK', 'test', 'write an email about parcel ' || n FROM generate_series(1, %s) AS n
"""
JUDGED = """
    SELECT content, "alignmentAnalysis", alignment - 'call' FROM operations.data_records
     WHERE "projectId" = %s AND "alignmentJobId" IS NOT NULL ORDER BY content
"""
RATED = """
    SELECT r.content, s."userId", s."llmModel", s."realismScore", s."qualityScore"
      FROM operations.likert_scores AS s JOIN operations.data_records AS r ON r.id = s."recordId"
     WHERE r."projectId" = %s ORDER BY r.content
"""
COUNTS = """
    SELECT status, progress, "totalRecords", "processedCount", "failedCount" FROM operations.analytics_jobs
     WHERE id = %s
"""
REPORT = 'SELECT "lastTaskAnalysis" FROM operations.projects WHERE id = %s'


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenAI]:
    """The provider that judges and embeds."""
    with FakeOpenAI() as fake:
        yield fake


def options(fake: FakeOpenAI) -> dict[str, Any]:
    """Return the options of a worker that runs analyses."""
    lease = {"heartbeat_seconds": 0.5, "lease_seconds": 6.0}
    return {"queues": ["analytics"], "model_url": fake.url, "embeddings": {"model": "embedder-1"}, **lease}


def start(system: System, fake: FakeOpenAI) -> tuple[uuid.UUID, uuid.UUID]:
    """Enqueue the analysis of a new project; return the job and the project."""
    fake.reset()
    fake.script(mix=[{"kind": "answer", "delay_ms": delay} for delay in (10, 60, 200, 400)])
    name = f"analysis {uuid.uuid4()}"
    encoded = base64.b64encode(GUIDELINES.read_bytes()).decode()
    system.run("INSERT INTO operations.projects (name, guidelines) VALUES (%s, %s)", name, encoded)
    project: uuid.UUID = system.ask("SELECT id FROM operations.projects WHERE name = %s", name)[0][0]
    system.run(ADD, project, RECORDS)
    (job,) = system.enqueue("analytics.align", [{"project_id": str(project), "model_name": "judge-1"}])
    return job, project


def result(system: System, job: uuid.UUID, project: uuid.UUID) -> list[list[tuple[Any, ...]]]:
    return [system.ask(COUNTS, job), system.ask(JUDGED, project), system.ask(RATED, project)]


def completed(system: System, job: uuid.UUID) -> bool:
    return bool(system.ask(COUNTS, job)[0][0] == "COMPLETED")


@pytest.fixture(scope="module")
def undisturbed(system: System, fake: FakeOpenAI) -> list[list[tuple[Any, ...]]]:
    """The result of an analysis without a crash."""
    system.staff(workers=0)
    job, project = start(system, fake)
    with system.lasting([system.start("worker", **options(fake))]):
        system.wait(lambda: completed(system, job), "the analysis completes", seconds=90.0)
    assert fake.calls == RECORDS + 1
    return result(system, job, project)


@pytest.mark.parametrize(("point", "nth"), DEATHS)
def test_another_worker_finishes_the_analysis_of_a_killed_one_with_the_same_result(
    system: System, fake: FakeOpenAI, undisturbed: list[list[tuple[Any, ...]]], point: Point, nth: int
) -> None:
    """Judgements, ratings and counts are the same. No record that was saved before the kill is asked about again."""
    job, project = start(system, fake)

    victim = arm(system, "worker", point, nth=nth, **options(fake))
    victim.exit_code(within=90.0)
    kept = {content for content, *_ in system.ask(JUDGED, project)}
    with system.lasting([system.start("worker", **options(fake))]):
        system.wait(lambda: completed(system, job), "another worker finishes it", seconds=90.0)

    Crash(point, victim).assert_there()
    assert system.actions(job).count("rescue") == 1
    asked = Counter(content for request in fake.requests if (content := record_in(request)))
    assert len(asked) == RECORDS
    assert {asked[content] for content in kept} <= {1}
    assert max(asked.values()) <= 2
    assert bool(kept) == ((point, nth) != DEATHS[0])
    assert result(system, job, project) == undisturbed
    assert f"{RECORDS} TASK records: " in system.ask(REPORT, project)[0][0]
