"""``gristmill analytics`` and ``gristmill ratings`` as a person and as a script use them, on a real database."""

import asyncio
import base64
import re
import uuid
from collections.abc import Sequence

import psycopg
import pytest

from gristmill_testing.mill import mill
from gristmill_testing.waiting import until
from tests.support.command_line import Gristmill, as_json
from tests.support.paths import CASES, SAMPLES
from workers.llm.offline import OfflineEvaluator
from workers.runtime.handler.registry import Registry

GUIDELINES = (SAMPLES / "guidelines.pdf").read_bytes()


@pytest.fixture
def records(psql: "psycopg.Connection[dict[str, object]]") -> Sequence[str]:
    """The records of a project named fieldnote, with guidelines."""
    encoded = base64.b64encode(GUIDELINES).decode()
    psql.execute("INSERT INTO operations.projects (name, guidelines) VALUES ('fieldnote', %s)", [encoded])
    rows = psql.execute(
        'INSERT INTO operations.data_records ("projectId", type, source, content) '
        "SELECT p.id, 'TASK', 'test', 'Write an email to the customer in ' || n || ' words' "
        "FROM operations.projects AS p, generate_series(1, 3) AS n RETURNING id"
    )
    return [str(row["id"]) for row in rows]


def analysed(database_url: str, registry: Registry, psql: "psycopg.Connection[dict[str, object]]") -> None:
    """Let a worker run all enqueued jobs."""
    left = "SELECT 1 FROM operations.analytics_jobs WHERE completed_at IS NULL"

    async def work() -> None:
        async with mill(database_url, registry, OfflineEvaluator()):
            await until(lambda: not psql.execute(left).fetchall(), within=60.0)

    asyncio.run(work())


def test_an_analysis_is_started_followed_and_read(
    gristmill: Gristmill,
    records: Sequence[str],
    database_url: str,
    registry: Registry,
    psql: "psycopg.Connection[dict[str, object]]",
) -> None:
    """The project is named; the verdicts and the report are printed."""
    code, said, _ = gristmill("analytics", "start", "fieldnote", "--type", "task")
    assert code == 0
    job = said.strip()
    assert as_json(gristmill, "analytics", "list", "fieldnote")[0]["status"] == "PENDING"
    assert gristmill("analytics", "summary", "fieldnote")[2].startswith("project 'fieldnote' has no analysis yet")

    analysed(database_url, registry, psql)

    shown = as_json(gristmill, "analytics", "show", job)
    assert shown["analysis"]["status"] == "COMPLETED"
    assert sum(shown["verdicts"].values()) == len(records)
    assert shown["failures"] == []
    assert shown["judges"] == {"offline-rubric-v1": 3}
    said = gristmill("analytics", "show", job)[1]
    assert "records     3 of 3, TASK only" in said
    assert "judged by   offline-rubric-v1, rule-based, not an AI judgement" in said
    assert job in gristmill("analytics", "list")[1]
    summary = as_json(gristmill, "analytics", "summary", "fieldnote")
    assert summary["tasks"].startswith("3 TASK records: ")
    assert summary["feedback"] is None
    assert "rule-based, not an AI judgement" in gristmill("analytics", "summary", "fieldnote")[1]


def test_control_characters_of_records_and_models_do_not_reach_the_terminal(
    gristmill: Gristmill, records: Sequence[str], psql: "psycopg.Connection[dict[str, object]]"
) -> None:
    """OSC 52 writes the clipboard, ESC moves the cursor: they are replaced."""
    told = "quotes \x1b]52;c;cm0gLXJm\x07 and \x9b2J"
    psql.execute('UPDATE operations.projects SET "lastTaskAnalysis" = %s', [told])
    job = gristmill("analytics", "start", "fieldnote")[1].strip()
    state = "UPDATE operations.analytics_jobs SET version = version + 1, status = %s, error = %s, completed_at = now()"
    psql.execute(state, ["CANCELLED", told])

    for command in (["analytics", "summary", "fieldnote"], ["analytics", "show", job], ["jobs", "why", job]):
        code, said, _ = gristmill(*command)

        assert code == 0
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
        assert "]52;c;cm0gLXJm" in said


def test_records_are_rated_listed_and_compared(
    gristmill: Gristmill,
    records: Sequence[str],
    database_url: str,
    registry: Registry,
    psql: "psycopg.Connection[dict[str, object]]",
) -> None:
    """Ratings by people and by rules are shown. Ratings by rules are not in the averages."""
    gristmill("analytics", "start", "fieldnote")
    analysed(database_url, registry, psql)

    for points, record in enumerate(records, start=3):
        code, said, _ = gristmill("ratings", "add", record, "--realism", str(points), "--quality", "4", "--user", "ana")
        assert (code, said.strip()) == (0, f"{record} is rated {points} for realism and 4 for quality by ana")

    listed = as_json(gristmill, "ratings", "list", "fieldnote")
    assert {(one["user"], one["model"]) for one in listed} == {
        ("ana", None),
        ("00000000-0000-0000-0000-000000000000", "offline-rubric-v1"),
    }
    compared = as_json(gristmill, "ratings", "compare", "fieldnote")
    assert compared["rated_by_people"] == 3
    assert [(one["model"], one["rule_based"], one["realism"]["n"]) for one in compared["models"]] == [
        ("offline-rubric-v1", True, 3)
    ]
    assert compared["realism"]["models"] == 0
    _, table, remarks = gristmill("ratings", "compare", "fieldnote")
    assert "offline-rubric-v1 (rules)" in table
    assert "not in the averages" in remarks


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["analytics", "start", "nobody"], 1, "nobody"),
        (["analytics", "start", "fieldnote", "--type", "poem"], 2, "poem"),
        (["analytics", "start", "fieldnote", "--model", "no spaces"], 2, "model_name"),
        (["analytics", "show", str(uuid.UUID(int=1))], 1, "does not exist (any more)"),
        (["ratings", "add", str(uuid.UUID(int=1)), "--realism", "1", "--quality", "1", "--user", "a"], 1, "not exist"),
        (["ratings", "add", "RECORD", "--realism", "9", "--quality", "1", "--user", "a"], 2, "less than or equal to 7"),
        (["ratings", "compare", "nobody"], 1, "nobody"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    gristmill: Gristmill, records: Sequence[str], arguments: list[str], code: int, complaint: str
) -> None:
    """Exit code 2 for wrong usage, 1 for something that does not exist."""
    found, _, said = gristmill(*(records[0] if word == "RECORD" else word for word in arguments))

    assert (found, said.count("\n")) == (code, 0)
    assert complaint in said


def test_guidelines_with_pages_without_text_cause_a_warning(
    gristmill: Gristmill,
    records: Sequence[str],
    database_url: str,
    registry: Registry,
    psql: "psycopg.Connection[dict[str, object]]",
) -> None:
    """It is shown when they are set and in the report, also if their passages exist already."""
    file = str(CASES / "partly_scanned.pdf")
    code, said, complaint = gristmill("projects", "guidelines", "fieldnote", file)
    assert (code, said.strip()) == (0, "fieldnote follows partly_scanned.pdf")
    assert complaint.startswith("WARNING: 9 of 10 pages have no text")

    for _ in range(2):
        job = gristmill("analytics", "start", "fieldnote")[1].strip()
        analysed(database_url, registry, psql)

        assert as_json(gristmill, "analytics", "show", job)["analysis"]["warnings"]["guidelines"].startswith("9 of 10 ")
        assert "warning     guidelines: 9 of 10 pages have no text" in gristmill("analytics", "show", job)[1]
        summary = as_json(gristmill, "analytics", "summary", "fieldnote")["tasks"]
        assert summary.startswith("WARNING: in the guidelines, 9 of 10 pages have no text")


def test_project_without_guidelines_is_not_analysed(
    gristmill: Gristmill, records: Sequence[str], psql: "psycopg.Connection[dict[str, object]]"
) -> None:
    """The command says how to set them, before anything is enqueued."""
    psql.execute("UPDATE operations.projects SET guidelines = NULL")

    code, _, said = gristmill("analytics", "start", "fieldnote")

    assert code == 1
    assert said.endswith("set them with `gristmill projects guidelines 'fieldnote' FILE.pdf`")
    assert as_json(gristmill, "analytics", "list") == []
