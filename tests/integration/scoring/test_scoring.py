"""Profile scoring through the real kernel on real Postgres, against a real HTTP server that counts its calls."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gristmill_testing.mill import Heard
from tests.conftest import sqlalchemy_url
from tests.support.fakes.mill import asking_mill
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.paths import SHARED_DATA
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.handler.registry import Registry
from workers.scoring.rubric import PACKAGE_PROMPT

PROMPT = "Judge this profile."
SAMPLES = SHARED_DATA


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server."""
    with FakeOpenAI() as fake:
        yield fake


Scoring = Callable[..., AbstractAsyncContextManager[Heard]]


@pytest.fixture
def scoring(database_url: str, registry: Registry, fake: FakeOpenAI) -> Scoring:
    """Open a mill whose provider is the fake server, or the offline evaluator."""

    def open_mill(*, offline: bool = False) -> AbstractAsyncContextManager[Heard]:
        return asking_mill(database_url, registry, provider_url=None if offline else fake.url)

    return open_mill


class Jobs:
    """The scoring jobs of a test's database: enqueue, read, wait."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._engine = create_engine(sqlalchemy_url(url))
        self._connection = connection

    def profile(self, **attributes: Any) -> uuid.UUID:
        sql = "INSERT INTO scoring.profiles (name, attributes) VALUES ('someone', CAST(:a AS jsonb)) RETURNING id"
        found: uuid.UUID = self._connection.execute(text(sql), {"a": json.dumps(attributes)}).scalar_one()
        return found

    def put(self, profile: uuid.UUID, prompt: str = PROMPT, **payload: Any) -> uuid.UUID:
        with Session(self._engine) as session, session.begin():
            return enqueue(session, "scoring.score", {"profile_id": str(profile), "prompt": prompt, **payload}).id

    def row(self, job: uuid.UUID) -> Any:
        sql = text("SELECT * FROM scoring.scoring_jobs WHERE id = :id")
        return self._connection.execute(sql, {"id": job}).one()

    def change(self, sql: str, **values: Any) -> None:
        self._connection.execute(text(sql), values)

    async def until(self, job: uuid.UUID, *actions: str, seconds: float = 15.0) -> Any:
        """Return the job's row once its last transition is one of ``actions``."""
        give_up = time.monotonic() + seconds
        while (row := self.row(job)).change_action not in actions:
            assert time.monotonic() < give_up, f"job is {row.status} by {row.change_action}: {row.change_reason}"
            await asyncio.sleep(0.02)
        return row

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def jobs(database_url: str, connection: Connection) -> Iterator[Jobs]:
    """The test's scoring jobs."""
    jobs = Jobs(database_url, connection)
    yield jobs
    jobs.close()


async def test_score_is_kept_with_its_evidence_and_times(scoring: Scoring, jobs: Jobs) -> None:
    """A completed job has a validated score, the raw answer beside it, progress 100 and ordered times."""
    job = jobs.put(jobs.profile(summary="a library"), PACKAGE_PROMPT)

    async with scoring():
        row = await jobs.until(job, "complete")

    assert row.status == "completed"
    assert {c["name"] for c in row.parsed_score["criteria"]} >= {"documentation", "clarity"}
    weights = [c["weight"] for c in row.parsed_score["criteria"]]
    mean = sum(c["score"] * c["weight"] for c in row.parsed_score["criteria"]) / sum(weights)
    assert row.parsed_score["overall"] == pytest.approx(mean, abs=0.06)
    assert row.llm_response["choices"]
    assert row.progress == 100
    assert row.created_at <= row.started_at <= row.completed_at


async def test_identical_input_within_a_day_makes_no_second_call(
    scoring: Scoring, jobs: Jobs, fake: FakeOpenAI
) -> None:
    """The second job gets the first one's answer and says so."""
    profile = jobs.profile()
    async with scoring():
        first = await jobs.until(jobs.put(profile), "complete")

        second = await jobs.until(jobs.put(profile), "complete")

    assert fake.calls == 1
    assert second.parsed_score == first.parsed_score
    assert second.llm_response["cached_from"] == str(first.id)


@pytest.mark.parametrize("other", [{"prompt": "Judge it otherwise."}, {"model_name": "gpt-4o"}])
async def test_other_input_is_asked_again(
    scoring: Scoring, jobs: Jobs, fake: FakeOpenAI, other: dict[str, str]
) -> None:
    """Another prompt or model is another question."""
    profile = jobs.profile()
    async with scoring():
        await jobs.until(jobs.put(profile), "complete")

        await jobs.until(jobs.put(profile, **other), "complete")

    assert fake.calls == 2


async def test_changed_profile_is_asked_again(scoring: Scoring, jobs: Jobs, fake: FakeOpenAI) -> None:
    """The profile's content is part of the question."""
    profile = jobs.profile(level="junior")
    async with scoring():
        await jobs.until(jobs.put(profile), "complete")
        jobs.change('UPDATE scoring.profiles SET attributes = \'{"level": "senior"}\' WHERE id = :id', id=profile)

        await jobs.until(jobs.put(profile), "complete")

    assert fake.calls == 2


async def test_answer_older_than_a_day_is_asked_again(scoring: Scoring, jobs: Jobs, fake: FakeOpenAI) -> None:
    """After 24 hours an answer is not reused."""
    profile = jobs.profile()
    async with scoring():
        await jobs.until(jobs.put(profile), "complete")
        jobs.change("UPDATE scoring.answers SET answered_at = answered_at - interval '24 hours 1 second'")

        await jobs.until(jobs.put(profile), "complete")

    assert fake.calls == 2


async def test_identical_jobs_in_flight_make_one_call(scoring: Scoring, jobs: Jobs, fake: FakeOpenAI) -> None:
    """Of eight identical jobs one calls the model. The others wait without spending an attempt and get its answer."""
    fake.script(default={"kind": "answer", "delay_ms": 700})
    profile = jobs.profile()
    twins = [jobs.put(profile) for _ in range(8)]

    async with scoring():
        rows = [await jobs.until(job, "complete", seconds=30) for job in twins]

    assert fake.calls == 1
    assert {row.retry_count for row in rows} == {0}
    assert sum("cached_from" in row.llm_response for row in rows) == 7


async def test_rate_limited_job_waits_as_asked_and_spends_no_attempt(
    scoring: Scoring, jobs: Jobs, fake: FakeOpenAI
) -> None:
    """A 429 snoozes the job for Retry-After."""
    fake.script(queue=[{"kind": "status", "status": 429, "retry_after": "1"}])
    job = jobs.put(jobs.profile())

    async with scoring():
        snoozed = await jobs.until(job, "snooze")
        done = await jobs.until(job, "complete")

    assert 0.5 < (snoozed.due_at - snoozed.updated_at).total_seconds() <= 1.1
    assert done.retry_count == 0
    assert fake.calls == 2


async def test_server_error_is_waited_for_and_costs_no_attempt(scoring: Scoring, jobs: Jobs, fake: FakeOpenAI) -> None:
    """A 500 costs no attempt; the next run completes. Both runs use the same idempotency key."""
    fake.script(queue=[{"kind": "status", "status": 500}])
    job = jobs.put(jobs.profile())

    async with scoring():
        done = await jobs.until(job, "complete")

    assert done.retry_count == 0
    assert done.error_message is None
    first, second = fake.ledger
    assert (first.job_id, first.answer, second.answer) == (job, "500", "answer")
    assert first.key == second.key


async def test_failing_job_is_retried_five_times_and_then_failed(
    scoring: Scoring, jobs: Jobs, fake: FakeOpenAI
) -> None:
    """Six runs of two questions each, ``retry_count`` 5, the last error kept."""
    fake.script(default={"kind": "malformed"})
    job = jobs.put(jobs.profile())

    async with scoring():
        give_up = time.monotonic() + 20
        while jobs.row(job).status != "failed" and time.monotonic() < give_up:
            jobs.change("UPDATE scoring.scoring_jobs SET due_at = NULL WHERE due_at IS NOT NULL")
            await asyncio.sleep(0.05)
    row = jobs.row(job)

    assert (row.status, row.retry_count, fake.calls) == ("failed", 5, 12)
    assert "two invalid answers" in row.error_message


@pytest.mark.parametrize("status", [400, 404])
async def test_permanent_refusal_fails_at_once(scoring: Scoring, jobs: Jobs, fake: FakeOpenAI, status: int) -> None:
    """A permanent error fails the job after one call, with one line that holds no key."""
    fake.script(default={"kind": "status", "status": status})
    job = jobs.put(jobs.profile())

    async with scoring():
        row = await jobs.until(job, "fail")

    assert (row.status, row.retry_count, fake.calls) == ("failed", 0, 1)
    assert "\n" not in row.error_message
    assert "sk-test" not in row.error_message


async def test_model_that_the_provider_lacks_fails_without_a_call(
    scoring: Scoring, jobs: Jobs, fake: FakeOpenAI
) -> None:
    """A model name is checked against the provider's own list."""
    fake.script(models=["llama-3-8b"])
    job = jobs.put(jobs.profile(), model_name="gpt-9000")

    async with scoring():
        row = await jobs.until(job, "fail")

    assert "gpt-9000" in row.error_message
    assert "llama-3-8b" in row.error_message
    assert fake.calls == 0


async def test_offline_evaluator_names_itself(scoring: Scoring, jobs: Jobs) -> None:
    """Without a provider, rules answer: any model name is accepted, and the result names the evaluator."""
    rich = jobs.profile(
        summary="A durable queue", documentation="https://docs.example.test", license="MIT", tests="500 tests"
    )
    job, bare = jobs.put(rich, PACKAGE_PROMPT), jobs.put(jobs.profile(), PACKAGE_PROMPT)

    async with scoring(offline=True):
        scored, empty = await jobs.until(job, "complete"), await jobs.until(bare, "complete")

    assert scored.parsed_score["model"] == "offline-rubric-v1"
    assert "not an AI judgement" in json.dumps(scored.llm_response)
    assert scored.model_name == "gpt-3.5-turbo"
    assert scored.parsed_score["overall"] > empty.parsed_score["overall"]


def test_empty_prompt_is_refused_at_every_door(jobs: Jobs) -> None:
    """Python names the field and the rule; SQL has a CHECK."""
    profile = jobs.profile()

    with pytest.raises(EnqueueError, match="prompt must not be empty"):
        jobs.put(profile, "  ")
    with pytest.raises(IntegrityError, match="ck_scoring_jobs_prompt"):
        jobs.change("SELECT scoring.enqueue_score(:id, ' ')", id=profile)


def test_misspelt_field_is_refused_by_name(jobs: Jobs) -> None:
    """An unknown field is an error."""
    with pytest.raises(EnqueueError, match="modle_name is not a field"):
        jobs.put(jobs.profile(), modle_name="gpt-4o")


async def test_real_server_descriptions_are_scored(scoring: Scoring, jobs: Jobs) -> None:
    """Forty real MCP server descriptions get a score each; longer descriptions score higher."""
    file = SAMPLES / "mcp_registry_300.json"
    if not file.exists():
        pytest.skip(f"sample data is not here: {file.name}")
    content = json.loads(file.read_text(encoding="utf-8"))
    servers = content if isinstance(content, list) else content["servers"]
    put = [jobs.put(jobs.profile(**server), PACKAGE_PROMPT) for server in servers[:40]]

    async with scoring(offline=True):
        rows = [await jobs.until(job, "complete", seconds=60) for job in put]

    scores = [row.parsed_score["overall"] for row in rows]
    assert all(0 <= score <= 100 for score in scores)
    assert len(set(scores)) > 10
