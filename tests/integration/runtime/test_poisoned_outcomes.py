"""If no row can hold an outcome, its job fails at once with the reason, and no other job."""

from typing import Any

import pytest
from sqlalchemy import text

from tests.support.kernel import PLAIN, started_worker
from workers.runtime.handler.outcomes import Complete

NOT_JSON = object()


def nested(depth: int) -> list[Any]:
    """Return a list nested ``depth`` deep: deeper than any writer of JSON supports."""
    whole: list[Any] = []
    for _ in range(depth):
        whole = [whole]
    return whole


VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "NUL": ({"result": {"x": "a\x00b"}}, "result.x must not contain a NUL character"),
    "lone surrogate": ({"result": {"x": ["\ud800"]}}, "result.x.0 must be valid Unicode"),
    "lone surrogate in a name": ({"result": {"\udc00": 1}}, "result has a name that must be valid Unicode"),
    "NaN": ({"result": {"x": float("nan")}}, "result.x must be a finite number, got nan"),
    "infinity": ({"result": {"x": float("inf")}}, "result.x must be a finite number, got inf"),
    "digits": ({"result": {"x": 10**5000}}, "result.x must be a number within ±1e308"),
    "deep": ({"result": nested(5_000)}, "result must be nested at most 64 deep"),
    "bytes": ({"result": {"x": b"\xff\xfe"}}, "result.x must be text, not bytes"),
    "no JSON": ({"result": {"x": NOT_JSON}}, "refused: "),
    "a wrong type": ({"effects": "many"}, 'invalid input syntax for type integer: "many"'),
    "out of range": ({"effects": 2**40}, 'value "1099511627776" is out of range for type integer'),
}


@pytest.fixture
async def leaves(jobs, database_url, perform):
    """Return a function that runs one handler with a poisoned value among nine without."""

    async def run(kind: str, way: str) -> dict[str, Any]:
        values, _ = VALUES[kind]

        @perform
        async def handler(job, ctx):
            poisoned = job.act == "poison"
            match way:
                case "outcome":
                    return Complete(values if poisoned else {"result": {"fine": 1}, "effects": 1})
                case "checkpoint":
                    await ctx.checkpoint(values if poisoned else {"result": {"fine": 1}})
                case "kept by a write":
                    await ctx.checkpoint({"progress": 5}, lambda _: _found(values) if poisoned else _found({}))
            return Complete()

        async with started_worker(database_url, perform.registry) as worker:
            await jobs.ready(count=5)
            [poisoned] = await jobs.ready(act="poison")
            await jobs.ready(count=4)
            await worker.run(await jobs.dispatched(count=0))
        assert await jobs.count(status="completed") == 9
        row: dict[str, Any] = await jobs.row(poisoned)
        return row

    return run


async def _found(values: dict[str, Any]) -> dict[str, Any]:
    return values


@pytest.mark.parametrize("way", ["outcome", "checkpoint", "kept by a write"])
@pytest.mark.parametrize("kind", VALUES)
async def test_a_value_that_no_row_can_hold_fails_its_job_alone(leaves, kind, way):
    """Another attempt would fail too, so none is spent."""
    row = await leaves(kind, way)

    assert (row["status"], row["retry_count"]) == ("failed", 0)
    assert VALUES[kind][1] in row["error_message"]
    assert "\n" not in row["error_message"]
    assert len(row["error_message"]) < 300


@pytest.mark.parametrize("parameter", ["a\x00b", "\ud800", float("nan"), 10**5000], ids=["NUL", "half", "NaN", "huge"])
async def test_a_write_with_such_a_parameter_takes_no_neighbour_with_it(jobs, database_url, perform, parameter):
    """Whether Postgres, the driver or Python raises: only the job of that write fails."""

    async def write(session) -> None:
        await session.execute(text("SELECT CAST(:value AS integer)"), {"value": parameter})

    @perform
    async def handler(job, ctx):
        return Complete(write=write if job.act == "poison" else None)

    async with started_worker(database_url, perform.registry) as worker:
        await jobs.ready(count=5)
        [poisoned] = await jobs.ready(act="poison")
        await worker.run(await jobs.dispatched(count=0))

    assert await jobs.count(status="completed") == 5
    row = await jobs.row(poisoned)
    assert row["retry_count"] == 1
    assert row["error_message"]


@pytest.mark.parametrize(
    ("shown", "kept"),
    [(float("nan"), 1), (float("inf"), 1), (-5, 1), (10**400, 99), (33.4, 33), (100, 99)],
    ids=["NaN", "infinity", "below", "huge", "fraction", "above"],
)
async def test_progress_is_a_percentage_whatever_is_shown(jobs, database_url, perform, shown, kept):
    """No number that a handler passes fails its job."""
    seen: list[int] = []

    @perform
    async def handler(job, ctx):
        await ctx.progress(shown)
        seen.append((await jobs.row(job.id))["progress"])
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        await worker.run(await jobs.dispatched())

    assert seen == [kept]
    assert await jobs.count(PLAIN, status="completed") == 1
