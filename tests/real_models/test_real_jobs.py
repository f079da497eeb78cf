"""Real jobs with a real model: profiles and assessments complete, and the ledger has the tokens of the server."""

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from config.settings import LLMSettings
from gristmill_testing.mill import mill
from gristmill_testing.waiting import until
from tests.real_models.conftest import ASSESSMENTS, PROFILES, generated
from tests.support.admitted import admitted_model
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue
from workers.runtime.handler.registry import discover

pytestmark = pytest.mark.real_models

TASK = "Judge how well this server describes itself to someone who may install it."
# Long enough for a busy machine; the server answers about one question in ten seconds.
MAX_SECONDS = 1_800
# The part of the server's tokens that the ledger may not have.
MAX_DIFFERENCE = 0.02
WAITING = "SELECT count(*) AS n FROM runtime.jobs WHERE completed_at IS NULL"
ENDS = "SELECT stage, status, count(*) AS n, sum(retry_count) AS retries FROM runtime.jobs GROUP BY 1, 2 ORDER BY 1, 2"
LEDGER = """SELECT state, count(*) AS n, sum(output_tokens)::int AS tokens, sum(max_output)::int AS at_most
              FROM llm.calls GROUP BY 1 ORDER BY 1"""


async def test_real_jobs_complete_with_the_default_settings(
    database_url: str, psql: "psycopg.Connection[dict[str, Any]]", llama: str, descriptions: Sequence[dict[str, Any]]
) -> None:
    """Each token that the server generated is in the ledger.

    Of a call that timed out nobody learns what it used: it counts at its estimate, and the server made no more.
    """
    before, started = generated(llama), time.monotonic()
    worker_id = uuid.uuid4()
    database = Database(database_url, changed_by=f"worker:{worker_id}")
    timeout = LLMSettings().timeout_seconds
    async with admitted_model(database, llama, worker_id=worker_id, timeout=timeout) as model:
        await _enqueue(database, psql, descriptions)
        async with mill(database_url, discover(), model, worker_id=worker_id):
            await until(lambda: psql.execute(WAITING).fetchone()["n"] == 0, within=MAX_SECONDS)  # type: ignore[index]
    await database.close()

    ends, ledger = psql.execute(ENDS).fetchall(), psql.execute(LEDGER).fetchall()
    server = generated(llama) - before
    figures = {"seconds": round(time.monotonic() - started), "jobs": ends, "ledger": ledger, "server": server}
    print(json.dumps(figures, default=str))  # noqa: T201 - the figures are what a person runs it for
    assert [(row["stage"], row["status"], row["n"]) for row in ends] == [
        ("assessment.assess", "completed", ASSESSMENTS),
        ("scoring.score", "completed", PROFILES),
    ]
    recorded = sum(row["tokens"] or 0 for row in ledger)
    estimated = sum(row["at_most"] for row in ledger if row["state"] == "orphaned")
    assert -MAX_DIFFERENCE * server <= server - recorded <= estimated + MAX_DIFFERENCE * server


async def _enqueue(
    database: Database, psql: "psycopg.Connection[dict[str, Any]]", descriptions: Sequence[dict[str, Any]]
) -> None:
    """Enqueue the profiles and the assessments."""
    async with database.session() as session:
        for number, one in enumerate(descriptions[:PROFILES]):
            profile = psql.execute(
                "INSERT INTO scoring.profiles (name, attributes) VALUES (%s, %s) RETURNING id",
                [one["name"] or f"unnamed {number}", json.dumps(one)],
            ).fetchone()
            assert profile is not None
            await enqueue(session, "scoring.score", {"profile_id": str(profile["id"]), "prompt": TASK})
        for one in descriptions[:ASSESSMENTS]:
            data = {"serverName": one["name"], "assessmentType": "mcp_server", "options": {"server": one}}
            await enqueue(session, "assessment.assess", {"assessment_id": one["name"], "request_data": data})
