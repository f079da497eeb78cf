"""Enqueue one job with one round trip: the rules of every door, in the role and the name that the settings say."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.support.kernel import PLAIN, Jobs
from workers.runtime.enqueue_at_once import SETTINGS, EnqueuedAtOnce, enqueue_at_once
from workers.runtime.enqueue_validation import EnqueueError
from workers.runtime.handler.registry import UnknownStageError


async def put(
    jobs: Jobs, payload: dict[str, Any], *, settings: dict[str, str] | None = None, stage: str = PLAIN, **options: Any
) -> EnqueuedAtOnce:
    said = json.dumps({**SETTINGS, "gristmill.changed_by": "tester", **(settings or {})})
    return await enqueue_at_once(jobs.database, said, stage, {**payload, **options})


async def test_a_new_job_is_committed_in_the_name_of_its_settings(jobs):
    """The settings end with the transaction."""
    done = await put(jobs, {"act": "complete"}, priority=2)

    row = await jobs.row(done.id)
    assert (done.created, done.created_at, done.max_retries) == (True, row["created_at"], row["max_retries"])
    assert row["priority"] == 2
    assert (await jobs.history(done.id))[0].changed_by == "tester"
    other = await jobs.ready()
    assert (await jobs.history(other[0]))[0].changed_by == "test"


async def test_a_repeat_returns_the_first_job(jobs):
    """Another payload is refused by the field that differs."""
    first = await put(jobs, {"act": "complete"}, idempotency_key="k")

    again = await put(jobs, {"act": "complete"}, idempotency_key="k")

    assert (again.id, again.created, again.created_at) == (first.id, False, None)
    with pytest.raises(EnqueueError, match="idempotency_key is taken by a job with another act, got 'k'"):
        await put(jobs, {"act": "fail"}, idempotency_key="k")


async def test_a_rerun_takes_the_key_of_a_cancelled_job(jobs):
    """As at every door."""
    first = await put(jobs, {}, idempotency_key="k")
    await jobs.sql("SELECT runtime.cancel(%s)", first.id)

    new = await put(jobs, {}, idempotency_key="k", on_failed="rerun")

    assert new.created
    assert new.id != first.id


@pytest.mark.parametrize("run", range(3))
async def test_of_many_at_once_one_makes_the_job(jobs, run):
    """The others get it."""
    done = await asyncio.gather(*(put(jobs, {}, idempotency_key="k") for _ in range(10)))

    assert len({one.id for one in done}) == 1
    assert sorted(one.created for one in done) == [False] * 9 + [True]


async def test_what_the_database_refuses_has_the_words_of_the_other_doors(jobs):
    """And the connection can be used again."""
    with pytest.raises(EnqueueError, match="value too long"):
        await put(jobs, {"act": "a" * 21})
    with pytest.raises(EnqueueError, match="NUL"):
        await put(jobs, {"act": "a\0"})
    with pytest.raises(UnknownStageError):
        await put(jobs, {}, stage="no.such")

    assert (await put(jobs, {})).created


async def test_it_takes_one_round_trip(jobs, monkeypatch):
    """Settings, INSERT and commit go together; a repeat takes another."""
    import psycopg

    syncs = 0
    sync = psycopg.AsyncPipeline.__aexit__

    async def counted(self, *arguments):
        nonlocal syncs
        syncs += 1
        return await sync(self, *arguments)

    monkeypatch.setattr(psycopg.AsyncPipeline, "__aexit__", counted)
    await put(jobs, {}, idempotency_key="k")
    assert syncs == 1
    await put(jobs, {}, idempotency_key="k")
    assert syncs == 3


async def test_the_role_of_one_request_is_not_that_of_the_next(jobs, psql):
    """A service may not enqueue about the thing of another tenant; the same connection then serves an operator."""
    mine, theirs = uuid.uuid4(), uuid.uuid4()
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(mine)])
        profile = psql.execute("INSERT INTO scoring.profiles (name) VALUES ('x') RETURNING id").fetchone()["id"]
    payload = {"profile_id": str(profile), "prompt": "Judge."}

    def acting(user: uuid.UUID) -> dict[str, str]:
        return {"role": "gristmill_service", "gristmill.user_id": str(user)}

    done = await put(jobs, payload, settings=acting(mine), stage="scoring.score")
    import psycopg

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await put(jobs, payload, settings=acting(theirs), stage="scoring.score")
    again = await put(jobs, payload, settings={"role": "gristmill_operator"}, stage="scoring.score")

    owners = await jobs.sql("SELECT id, owner_id FROM scoring.scoring_jobs ORDER BY id")
    assert [(row["id"], row["owner_id"]) for row in owners] == [(done.id, mine), (again.id, mine)]
    async with jobs.database.kernel() as conn:
        row = await (
            await conn.execute("SELECT current_user = session_user, current_setting('lock_timeout')")
        ).fetchone()
    assert row == (True, "1s")
