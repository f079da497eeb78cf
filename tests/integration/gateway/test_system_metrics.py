"""The metrics of the whole system: as Prometheus reads them, from what is kept, without a scan of job tables."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import system_metrics
from local.logins import make_logins
from tests.support.gateway import open_client
from tests.support.kernel import PLAIN, Jobs, started_worker
from workers.runtime.handler.outcomes import Fail
from workers.runtime.measuring import MEASUREMENTS
from workers.runtime.store.counts import fold_counts
from workers.runtime.store.processes import try_to_lead
from workers.runtime.worker import reporting


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Every scrape looks again, workers write at once, and nothing is left of earlier tests."""
    monkeypatch.setattr(system_metrics, "MAX_AGE_SECONDS", -1.0)
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.05)
    MEASUREMENTS.take()


async def scrape(client):
    """Return the samples by name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


async def test_a_scrape_has_the_jobs_the_waits_and_the_latencies(client, database, registry, database_url):
    """Of every stage; buckets are cumulative and end in all."""
    jobs = Jobs(database, registry)
    async with database.kernel() as conn:
        term = await try_to_lead(conn, name="one")
    assert term is not None
    [failed] = await jobs.running()
    await jobs.settle(failed, Fail("no"))
    async with started_worker(database_url, registry) as worker:
        await worker.run(await jobs.dispatched(count=4))
    await jobs.ready(count=2)
    async with database.kernel() as conn:
        while await fold_counts(conn, term=term, limit=100):
            pass

    found = await scrape(client)

    def of(name, **labels):
        return found.get((name, tuple(sorted(labels.items()))))

    assert of("gristmill_system_up") == 1
    assert of("gristmill_jobs", stage=PLAIN, state="completed") == 4
    assert of("gristmill_jobs", stage=PLAIN, state="failed") == 1
    assert of("gristmill_jobs", stage=PLAIN, state="pending") == 2
    assert 0 < of("gristmill_oldest_wait_seconds", stage=PLAIN) < 600
    assert of("gristmill_oldest_wait_seconds", stage="proving.keyed") == 0
    assert of("gristmill_job_actions_total", stage=PLAIN, action="fail") == 1
    assert of("gristmill_job_actions_total", stage=PLAIN, action="complete") == 4
    assert 0 <= of("gristmill_dispatcher_silence_seconds") < 600
    for name in ("dispatch", "claim", "run", "settle"):
        assert of(f"gristmill_{name}_seconds_count", stage=PLAIN) == 4
        buckets = [value for (sample, _), value in found.items() if sample == f"gristmill_{name}_seconds_bucket"]
        assert of(f"gristmill_{name}_seconds_bucket", stage=PLAIN, le="+Inf") == 4
        assert buckets == sorted(buckets)


async def test_without_postgres_only_the_metrics_of_the_process_are_left(client, database_url, monkeypatch):
    """An outage must not hide them; one metric says so."""

    async def refuse(_conn):
        raise OSError("no route to host")

    assert (await scrape(client))["gristmill_system_up", ()] == 1
    monkeypatch.setattr(system_metrics, "read_metrics", refuse)

    found = await scrape(client)

    assert found["gristmill_system_up", ()] == 0
    assert not [name for name, _ in found if name == "gristmill_jobs"]
    assert [name for name, _ in found if name == "gristmill_http_requests_total"]


async def test_a_gateway_with_its_own_login_reads_them(database_url, redis_url, registry, tmp_path):
    """Its login has no right on jobs: it becomes an operator in the transaction."""
    made = make_logins(database_url, tmp_path / "roles", new_passwords=True)
    url = next(one.url for one in made if one.kind == "gateway")
    async with open_client(url, redis_url=redis_url) as client:
        assert (await scrape(client))["gristmill_system_up", ()] == 1
