"""Assessments through the real kernel on real Postgres, created in SQL, judged by a real HTTP server or by rules."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

import tests.support.proving.assessors  # noqa: F401 - importing registers the no-op assessor
from gristmill_testing.mill import Heard
from gristmill_testing.waiting import until
from tests.support.fakes.mill import asking_mill
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.paths import SHARED_DATA
from workers.assessment.result import AssessmentResult
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.handler.registry import Registry
from workers.runtime.handler.rule_based import NOTE

REGISTRY = SHARED_DATA / "mcp_registry_300.json"
CRITERIA = [{"name": name, "scale": {"lowest": 1, "highest": 5}} for name in ("clarity", "evidence", "style", "care")]
RUBRIC = {"criteria": CRITERIA, "content": "A server that serves files."}

Assessing = Callable[..., AbstractAsyncContextManager[Heard]]


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def assessing(database_url: str, registry: Registry, fake: FakeOpenAI) -> Assessing:
    """Open a mill whose provider is the fake server, or the offline evaluator."""

    def open_mill(*, offline: bool = False) -> AbstractAsyncContextManager[Heard]:
        return asking_mill(database_url, registry, provider_url=None if offline else fake.url)

    return open_mill


class Store:
    """The assessments of a test's database, in SQL like a service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, name: str, kind: str, options: dict[str, Any], *, timeout: int = 300, **more: Any) -> str:
        request = {"serverName": name, "assessmentType": kind, "options": options, **more}
        sql = "SELECT assessments.create_assessment(:name, CAST(:request AS jsonb), 5, :timeout)"
        self._connection.execute(text(sql), {"name": name, "request": json.dumps(request), "timeout": timeout})
        return name

    def row(self, name: str) -> Any:
        sql = text("SELECT * FROM assessments.assessment_states WHERE assessment_id = :name")
        return self._connection.execute(sql, {"name": name}).one()

    def reasons(self, name: str, action: str) -> list[str]:
        """Return the reason of each ``action`` in the audit."""
        sql = (
            "SELECT change_reason FROM assessments.assessment_state_audit "
            "WHERE assessment_id = :name AND change_action = :action ORDER BY version_to"
        )
        return list(self._connection.execute(text(sql), {"name": name, "action": action}).scalars())

    def cancel(self, name: str) -> None:
        sql = (
            "SELECT assessments.update_assessment_state(assessment_id, 'cancelled', version) "
            "FROM assessments.assessment_states WHERE assessment_id = :name"
        )
        self._connection.execute(text(sql), {"name": name})

    async def until(self, name: str, *actions: str, seconds: float = 20.0) -> Any:
        """Return the row once its last transition is one of ``actions``."""
        give_up = time.monotonic() + seconds
        while (row := self.row(name)).change_action not in actions:
            assert time.monotonic() < give_up, f"it is {row.state} by {row.change_action}: {row.change_reason}"
            await asyncio.sleep(0.02)
        return row


@pytest.fixture
def store(connection: Connection) -> Store:
    """The test's assessments."""
    return Store(connection)


async def test_a_rubric_is_answered_and_kept(assessing: Assessing, store: Store) -> None:
    """It is created in SQL with unknown members; the result has every criterion on its own scale."""
    store.create("one", "llm_rubric", RUBRIC, timestamp="2026-05-01T12:00:00Z", source="bus", correlation=7)

    async with assessing():
        row = await store.until("one", "complete")

    result = AssessmentResult.model_validate(row.result_data)
    assert (row.state, row.progress) == ("completed", 100)
    assert [one.name for one in result.criteria] == ["clarity", "evidence", "style", "care"]
    assert all(1 <= one.points <= 5 for one in result.criteria)
    assert (result.rule_based, result.note, result.model) == (False, None, "gpt-3.5-turbo")
    assert (result.prompt_tokens, result.completion_tokens) == (100, 20)
    assert row.request_data["correlation"] == 7


async def test_progress_is_seen_while_criteria_are_asked_one_by_one(
    assessing: Assessing, store: Store, fake: FakeOpenAI
) -> None:
    """The progress grows from 1 to 99 until the job ends."""
    fake.script(default={"kind": "answer", "delay_ms": 150})
    store.create("one", "llm_rubric", {**RUBRIC, "separately": True})
    seen: list[int] = []

    def ended() -> bool:
        row = store.row("one")
        seen.append(row.progress)
        return bool(row.state == "completed")

    async with assessing():
        await until(ended, within=20)

    assert seen == sorted(seen)
    assert {25, 50, 75} & set(seen)
    assert fake.calls == 4


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        ("vibes", {}, "request_data assessmentType must be one of composite, llm_rubric, mcp_server"),
        ("llm_rubric", {"content": "x"}, "request_data options.criteria is required, got nothing"),
        ("mcp_server", {"server": {"name": "x"}, "schema": {"type": "no type"}}, "options.schema is not usable as a"),
        ("composite", {"parts": [{"assessmentType": "vibes"}]}, "every part failed: vibes: assessmentType must be one"),
    ],
)
async def test_a_bad_request_fails_at_once_with_one_line(
    assessing: Assessing, store: Store, fake: FakeOpenAI, *, kind: str, options: dict[str, Any], line: str
) -> None:
    """It costs no attempt, and no model is called."""
    store.create("one", kind, options)

    async with assessing():
        row = await store.until("one", "fail")

    assert row.error_message.startswith(line)
    assert (row.state, row.retry_count, row.progress) == ("failed", 0, 100)
    assert fake.calls == 0


GIVEN_UP = {
    "prose": "gave two invalid answers",
    "invalid": "gave two invalid answers",
    "malformed": "gave two invalid answers",
    "truncated": "a valid answer needs at most",
    "empty": "gave two invalid answers",
}


@pytest.mark.parametrize("kind", GIVEN_UP)
async def test_a_hostile_answer_is_asked_again_and_then_retried(
    assessing: Assessing, store: Store, fake: FakeOpenAI, kind: str
) -> None:
    """The model is asked a second time, with the error or a larger limit; then the job is retried."""
    fake.script(queue=[{"kind": kind}] * 2)
    store.create("one", "llm_rubric", RUBRIC)

    async with assessing():
        row = await store.until("one", "complete")

    assert GIVEN_UP[kind] in store.reasons("one", "retry")[0]
    assert (row.state, row.retry_count) == ("completed", 1)
    assert fake.calls == 3


async def test_a_rate_limit_snoozes_a_composite_and_spends_no_attempt(
    assessing: Assessing, store: Store, fake: FakeOpenAI
) -> None:
    """If one part is rate limited, the whole job waits, so that no part is lost."""
    fake.script(queue=[{"kind": "answer"}, {"kind": "status", "status": 429, "retry_after": "30"}])
    parts = [{"assessmentType": "llm_rubric", "options": {**RUBRIC, "task": task}} for task in ("One.", "Two.")]
    store.create("one", "composite", {"parts": parts})

    async with assessing():
        row = await store.until("one", "snooze")

    assert (row.state, row.retry_count, row.progress) == ("pending", 0, 0)
    assert row.next_retry_at is not None


async def test_a_composite_under_a_rate_limit_pays_for_each_question_once(
    assessing: Assessing, store: Store, fake: FakeOpenAI
) -> None:
    """Sixty questions, four in half a second: every run goes on where the last one was refused."""
    refused = {"kind": "status", "status": 429, "retry_after": "1"}
    fake.script(default=refused)
    criteria = [{"name": f"criterion {number}"} for number in range(6)]
    options = [{"criteria": criteria, "content": f"Server {number}.", "separately": True} for number in range(10)]
    parts = [{"assessmentType": "llm_rubric", "name": f"part {i}", "options": one} for i, one in enumerate(options)]
    store.create("one", "composite", {"parts": parts})

    async def give_out() -> None:
        while True:
            fake.script(queue=[{"kind": "answer"}] * 4)
            await asyncio.sleep(0.5)

    async with assessing():
        giving = asyncio.create_task(give_out())
        row = await store.until("one", "complete", "fail", seconds=90)
        giving.cancel()

    answered = [call.key for call in fake.ledger if call.answer == "answer"]
    assert (row.state, row.retry_count) == ("completed", 0)
    assert (len(answered), len(set(answered))) == (60, 60)
    assert len(store.reasons("one", "snooze")) >= 3
    result = AssessmentResult.model_validate(row.result_data)
    assert (result.prompt_tokens, result.completion_tokens) == (6_000, 1_200)


async def test_equal_parts_of_a_composite_are_paid_for_once(
    assessing: Assessing, store: Store, fake: FakeOpenAI
) -> None:
    """They ask the same at the same time."""
    part = {"assessmentType": "llm_rubric", "options": RUBRIC}
    store.create("one", "composite", {"parts": [{**part, "name": "a"}, {**part, "name": "b"}]})

    async with assessing():
        row = await store.until("one", "complete")

    assert fake.calls == 1
    assert [one["status"] for one in row.result_data["parts"]] == ["completed", "completed"]


async def test_a_composite_shows_what_failed_in_it(assessing: Assessing, store: Store) -> None:
    """It completes with the other parts, and the first flag names the failed part."""
    good, bad = ({"assessmentType": "llm_rubric", "options": options} for options in (RUBRIC, {"content": "x"}))
    store.create("one", "composite", {"parts": [good, {**bad, "name": "bad"}, {"assessmentType": "noop"}]})

    async with assessing():
        row = await store.until("one", "complete")

    result = AssessmentResult.model_validate(row.result_data)
    assert [part.status for part in result.parts] == ["completed", "failed", "completed"]
    assert result.flags[0] == "1 of 3 parts failed (bad): weights renormalised"


async def test_a_cancelled_assessment_stops_asking(assessing: Assessing, store: Store, fake: FakeOpenAI) -> None:
    """A service cancels it in SQL while its parts wait for the model: the calls end, and no result is stored."""
    fake.script(default={"kind": "hang"})
    parts = [
        {"assessmentType": "llm_rubric", "options": {**RUBRIC, "task": task}} for task in ("One.", "Two.", "Three.")
    ]
    store.create("one", "composite", {"parts": parts})

    async with assessing():
        await until(lambda: fake.snapshot()["in_flight"] == 3, within=20)
        store.cancel("one")
        await until(lambda: fake.snapshot()["in_flight"] == 0, within=20)

    row = store.row("one")
    assert (row.state, row.result_data, fake.calls) == ("cancelled", None, 3)


async def test_each_row_has_its_own_timeout(assessing: Assessing, store: Store, fake: FakeOpenAI) -> None:
    """This row has one second; then the run ends and costs an attempt."""
    fake.script(default={"kind": "hang"})
    store.create("one", "llm_rubric", RUBRIC, timeout=1)

    async with assessing():
        await until(lambda: bool(store.reasons("one", "retry")), within=20)

    assert store.reasons("one", "retry")[0] == "deadline of 1 s passed"


async def test_every_door_refuses_what_no_run_could_assess(session: AsyncSession) -> None:
    """The line is the same as for a row written in SQL."""
    request = {"serverName": "acme", "assessmentType": "llm_rubric", "options": {"content": "x"}}

    with pytest.raises(EnqueueError, match=r"request_data.*options\.criteria is required, got nothing"):
        await enqueue(session, "assessment.assess", {"assessment_id": "one", "request_data": request})


async def test_a_request_is_kept_to_the_letter(session: AsyncSession) -> None:
    """Unknown members of any form are stored unchanged."""
    request = {
        "serverName": "acme",
        "assessmentType": "llm_rubric",
        "options": RUBRIC,
        "timestamp": 1_777_636_800,
        "x": [1],
    }

    enqueued = await enqueue(
        session, "assessment.assess", {"assessment_id": "one", "request_data": request, "timeout_seconds": 7}
    )

    sql = text("SELECT request_data, timeout_seconds FROM assessments.assessment_states WHERE id = :id")
    assert (await session.execute(sql, {"id": enqueued.id})).one() == (request, 7)


async def test_sixty_real_descriptions_are_assessed_offline(
    assessing: Assessing, store: Store, connection: Connection
) -> None:
    """Every description gets a result per criterion, which says if a rule decided, and results differ."""
    if not REGISTRY.exists():
        pytest.skip(f"needs the published descriptions: {REGISTRY.name} is not in ../shared/data")
    servers = [server for server in json.loads(REGISTRY.read_text()) if server["name"]][:60]
    for server in servers:
        store.create(server["name"], "mcp_server", {"server": server})

    def open_ones() -> int:
        sql = "SELECT count(*) FROM assessments.assessment_states WHERE state IN ('pending', 'processing')"
        found: int = connection.execute(text(sql)).scalar_one()
        return found

    async with assessing(offline=True):
        await until(lambda: open_ones() == 0, within=60)

    rows = [store.row(server["name"]) for server in servers]
    results = [AssessmentResult.model_validate(row.result_data) for row in rows]
    assert {row.state for row in rows} == {"completed"}
    assert all(one.note == NOTE and len(one.criteria) >= 7 for one in results)
    assert len({one.score for one in results}) > 30
    assert len({one.verdict for one in results}) >= 2
