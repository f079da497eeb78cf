"""Kill workers and Postgres while jobs with callbacks are enqueued: nothing is lost, and nothing is made up."""

from collections import Counter

from tests.support.callback_survival import survive

JOBS = 200


async def test_every_callback_arrives_whatever_dies(registry):
    """Each accepted job exists once and has one delivery; each callback arrives at least once, with a valid signature.

    ``python -m tests.support.callback_survival 10000`` does the same with more.
    """
    found = await survive(JOBS, kills=4, crashes=2, seed=7)

    assert (found.kills, found.crashes) == (4, 2)
    assert len(found.accepted) == JOBS
    ids = {row["id"] for row in found.jobs}
    assert sorted(row["idempotency_key"] for row in found.jobs) == sorted(found.accepted)
    assert ids == set(found.accepted.values())
    assert Counter(row["job_id"] for row in found.deliveries) == Counter(ids)
    assert {row["status"] for row in found.deliveries} == {"delivered"}
    assert found.notices == 0
    assert found.unsigned == 0
    assert found.arrived.keys() == ids
