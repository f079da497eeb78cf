"""What SQL does not check of a payload is checked when a worker claims the job, in the words of the other doors."""

from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel

from tests.support.kernel import PLAIN, Jobs, started_worker
from tests.support.proving.models import PlainJob
from workers.runtime.handler.outcomes import Complete
from workers.runtime.handler.registry import Registry, stage
from workers.runtime.handler.sql_door import SqlDoor


def _check_key(key: str) -> str:
    if not key.islower():
        raise ValueError("must be in lower case")
    return key


class Strict(BaseModel):
    act: str = "complete"
    seconds: float = 0.0
    key: Annotated[str, AfterValidator(_check_key)] = "k"


@pytest.mark.parametrize(
    ("door", "status", "error"),
    [(SqlDoor(), "failed", "key must be in lower case, got 'LOUD'"), (None, "completed", None)],
)
async def test_a_payload_that_breaks_a_rule_fails_its_job_for_good(jobs: Jobs, database_url, door, status, error):
    """Of a stage that is open to SQL. The handler is not called, and no attempt is left for the same end."""
    called = []
    registry = Registry()

    @stage(PLAIN, of=PlainJob, payload=Strict, sql=door, into=registry)
    async def handler(job, ctx):
        called.append(job.id)
        return Complete()

    [row] = await jobs.sql("""SELECT runtime.enqueue('proving.plain', '{"key": "LOUD"}') AS id""")
    [good] = await jobs.sql("""SELECT runtime.enqueue('proving.plain', '{"key": "low"}') AS id""")

    async with started_worker(database_url, registry) as worker:
        await worker.run(await jobs.dispatched(count=0))

    found = await jobs.row(row["id"])
    assert (found["status"], found["error_message"], found["retry_count"]) == (status, error, 0)
    assert (await jobs.row(good["id"]))["status"] == "completed"
    assert (row["id"] in called) == (door is None)
