"""Real workers that die while they embed, and a worker that uses each provider that operators choose."""

import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.system import Role, System
from tests.support.fakes.embedder import vector_of
from tests.support.fakes.openai_server import FakeOpenAI
from workers.runtime.failpoints import EXIT_CODE, VARIABLE

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

RECORDS, BATCH, AT_ONCE = 1_000, 8, 4
DEATHS = ("checkpoint.before:2", "checkpoint.after:2", "provider.after:20")
ADD = """
    INSERT INTO operations.data_records ("projectId", type, source, content, "ingestJobId")
    SELECT %s, 'TASK', 'test', 'record number ' || n, %s FROM generate_series(1, %s) AS n
"""
# Makes a job in the state after its first stage, in one transaction. No file is loaded here.
QUEUED = """
    BEGIN;
    INSERT INTO operations.ingest_jobs (id, "projectId", type, source) VALUES ('{job}', '{project}', 'TASK', {source});
    UPDATE operations.ingest_jobs SET dispatched_at = now() WHERE id = '{job}';
    UPDATE operations.ingest_jobs SET status = 'PROCESSING', version = version + 1, lease_owner = gen_random_uuid()
     WHERE id = '{job}';
    UPDATE operations.ingest_jobs SET status = 'QUEUED_FOR_VEC', version = version + 1, dispatched_at = NULL,
           lease_owner = NULL WHERE id = '{job}';
    COMMIT
"""

SET = """
    INSERT INTO operations.system_settings (key, value) VALUES (%s, %s)
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value
"""


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """The provider that embeds."""
    with FakeOpenAI() as fake:
        fake.script(embeddings={"delay_ms": 20})
        yield fake


@pytest.fixture
def project(system: System) -> uuid.UUID:
    """The test's own project."""
    name = f"vectors {uuid.uuid4()}"
    system.run("INSERT INTO operations.projects (name) VALUES (%s)", name)
    found: uuid.UUID = system.ask("SELECT id FROM operations.projects WHERE name = %s", name)[0][0]
    return found


def queue(system: System, project: uuid.UUID, *, source: str | None) -> uuid.UUID:
    """Enqueue a job after its first stage: of a file, or one that embeds records without vectors."""
    job = uuid.uuid4()
    if source:
        system.run(ADD, project, job, RECORDS)
    system._connected().execute(QUEUED.format(job=job, project=project, source=f"'{source}'" if source else "NULL"))
    return job


def mortal(system: System, fake: FakeOpenAI, *, point: str | None = None) -> Role:
    """Start a worker that embeds with the fake server and dies at ``point``."""
    return system.start(
        "worker",
        environment={VARIABLE: point} if point else {},
        queues=["vectorization"],
        model_url=fake.url,
        embeddings={"model": "embed-1", "texts": BATCH, "requests": AT_ONCE},
    )


def worker(system: System, fake: FakeOpenAI) -> Role:
    """Start a worker as `gristmill worker` runs it."""
    return system.start_gristmill(
        "worker",
        OPENAI_BASE_URL=fake.url,
        OPENAI_API_KEY="key",
        GRISTMILL_LLM__EMBEDDING_MODEL="embed-1",
        GRISTMILL_WORKER__QUEUES="vectorization",
    )


def vectors(system: System, project: uuid.UUID) -> dict[str, tuple[list[float], str]]:
    rows = system.ask(
        'SELECT content, embedding, "embeddingModel" FROM operations.data_records WHERE "projectId" = %s', project
    )
    return {content: (embedding, model) for content, embedding, model in rows}


def undisturbed(model: str) -> dict[str, tuple[list[float], str]]:
    """Return the result of a run without a crash: each text has its vector."""
    texts = [f"record number {number}" for number in range(1, RECORDS + 1)]
    return {text: (vector_of(text, model, 8), model) for text in texts}


def ends(system: System, job: uuid.UUID) -> tuple[str, int, int]:
    """Return how the job ended: its state, its number of records with vectors, its spent attempts."""
    row = """SELECT status, "embeddedCount", retry_count FROM operations.ingest_jobs
              WHERE id = %s AND completed_at IS NOT NULL"""
    found: list[tuple[str, int, int]] = system.wait(lambda: system.ask(row, job), "the job ended", seconds=90.0)
    return found[0]


def test_workers_killed_while_they_embed_leave_the_result_of_an_undisturbed_run(
    system: System, project: uuid.UUID, fake: FakeOpenAI
) -> None:
    """Workers die before a commit, after one, and between answer and commit. The vectors are the same.

    Only requests in flight, and answers that were not committed, are paid twice.
    """
    system.staff(workers=0)
    job = queue(system, project, source="csv:test.csv")

    for point in DEATHS:
        victim = mortal(system, fake, point=point)
        victim.ended = True
        assert victim.exit_code(within=90.0) == EXIT_CODE, point
    survivor = mortal(system, fake)
    end = ends(system, job)

    assert end == ("COMPLETED", RECORDS, len(DEATHS))
    assert vectors(system, project) == undisturbed("embed-1")
    paid = fake.embedder.texts()
    # In flight, waiting for the writer, and being written.
    assert len(paid) - len(set(paid)) <= len(DEATHS) * 3 * AT_ONCE * BATCH
    survivor.terminate()
    assert survivor.exit_code(within=30.0) == 0


def test_worker_follows_the_operators_choice_without_a_restart(
    system: System, project: uuid.UUID, fake: FakeOpenAI
) -> None:
    """It uses the environment's provider, then a chosen one, then the offline embedder. Vectors name their model."""
    system.staff(workers=0)
    running = worker(system, fake)
    first = queue(system, project, source="csv:test.csv")
    assert ends(system, first)[:2] == ("COMPLETED", RECORDS)
    by_environment = vectors(system, project)

    with FakeOpenAI() as chosen:
        for key, value in {"ai_host": chosen.url, "embedding_model": "embed-2", "ai_provider": "lmstudio"}.items():
            system.run(SET, key, value)
        system.wait(lambda: embedded_by(system, project, "embed-2"), "the chosen provider embeds", seconds=60.0)
        by_choice = vectors(system, project)
    system.run(SET, "ai_provider", "offline")
    system.wait(lambda: embedded_by(system, project, "offline-hash-v1"), "the offline embedder embeds", seconds=60.0)

    assert by_environment == undisturbed("embed-1")
    assert by_choice == undisturbed("embed-2")
    assert running.alive
    running.terminate()
    assert running.exit_code(within=30.0) == 0


def embedded_by(system: System, project: uuid.UUID, model: str) -> bool:
    """Re-embed the project's records with the chosen provider; return whether ``model`` made all vectors."""
    ends(system, queue(system, project, source=None))
    return {name for _, name in vectors(system, project).values()} == {model}
