"""Assess the description of a made-up MCP server: its form by rules, its text by a rubric, with one weighted score."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cli.assessment_view import result_lines
from cli.connection import actor, open_database
from cli.demo.display import step_display
from cli.demo.following import StepProgress, follow_jobs
from workers.assessment.store import states
from workers.assessment.store.refusals import UnknownAssessment
from workers.runtime.database import Raw

SERVER: dict[str, Any] = {
    "name": "io.github.example/parcel-tracker",
    "description": "Lets an assistant look up where a parcel is, through the carrier's public tracking API.",
    "version_detail": {"version": "1.4.0", "release_date": "2026-05-04T09:00:00Z"},
    "repository": {"url": "https://github.com/example/parcel-tracker", "source": "github"},
    "packages": [
        {
            "registry_name": "npm",
            "name": "@example/parcel-tracker",
            "version": "1.4.0",
            # Not marked as secret: the rules find it.
            "environment_variables": [
                {"name": "CARRIER_TOKEN", "description": "Token of the carrier's tracking API", "is_required": True}
            ],
        }
    ],
}
TEXT = """\
# parcel-tracker

Answers "where is my parcel?" inside an assistant. It asks the carrier's tracking API and returns the last three
scans with place and time. 42 carriers, median answer 0.8 s.

## Install

npm install -g @example/parcel-tracker@1.4.0, then set CARRIER_TOKEN.

## Example

track 1Z999AA10123456784 -> "out for delivery, Leipzig, 08:12"
"""
CRITERIA = [
    {"name": "clarity", "description": "says what it does, for whom and with which API", "weight": 3},
    {"name": "installation", "description": "install command, version and the token to set", "weight": 2},
    {"name": "evidence", "description": "an example, figures and facts that a reader can check"},
]


@dataclass(frozen=True, slots=True)
class DemoAssessment:
    """The assessment after its end. ``result`` is None if it did not complete."""

    name: str
    result: dict[str, Any] | None
    error: str | None


def build_request() -> dict[str, Any]:
    """Return the request of the assessment."""
    parts = [
        {"assessmentType": "mcp_server", "weight": 2, "options": {"server": SERVER}},
        {"assessmentType": "llm_rubric", "options": {"content": TEXT, "criteria": CRITERIA}},
    ]
    return {
        "serverName": SERVER["name"],
        "assessmentType": "composite",
        "options": {"parts": parts},
        "source": "demo",
    }


async def run_assessment(
    database_url: str, name: str, *, on_created: Callable[[UUID], None], check: Callable[[], None]
) -> DemoAssessment:
    """Enqueue the assessment ``name`` and return it after its end. Call ``on_created`` with the id of its job."""
    async with open_database(database_url) as database:
        async with database.session() as session:
            job_id = await states.create(session, name, build_request(), actor=actor())
        on_created(job_id)
        with step_display("assessing") as show:
            await follow_jobs(database_url, [job_id], lambda conn: _load_progress(conn, job_id), show=show, check=check)
        try:
            async with database.session() as session:
                found = await states.get(session, name)
        except UnknownAssessment:
            return DemoAssessment(name, None, "it was deleted meanwhile")
    return DemoAssessment(name, found.result_data if found.status == "completed" else None, found.error_message)


async def _load_progress(conn: Raw, job_id: UUID) -> StepProgress:
    ended, completed = await states.has_ended(conn, job_id)
    return StepProgress(1, int(completed), int(ended and not completed), done=ended)


def verdict_lines(assessment: DemoAssessment) -> Iterator[str]:
    """Yield the verdict and each part with its criteria. `assessments show` has the reasons."""
    if assessment.result is None:
        yield f"assessment {assessment.name} did not complete: {assessment.error}"
        return
    for line in result_lines(assessment.result):
        if line and not line.startswith("       "):  # a criterion's reasoning and evidence
            yield line
