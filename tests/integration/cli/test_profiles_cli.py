"""`gristmill profiles`: add, list, show and score, with any prompt."""

import json
import os
import re
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.support.command_line import as_json
from tests.support.paths import ROOT
from workers.runtime.actor import Actor
from workers.scoring.profiles import (
    InvalidProfile,
    UnknownProfile,
    add_profiles,
    find_profile,
    list_profiles,
    new_profile,
    score_profiles,
)

SCORE = {
    "overall": 71.5,
    "criteria": [
        {"name": "depth", "score": 80, "evidence": ["ten years of Rust"], "reasoning": "It says so.", "weight": 60},
        {"name": "clarity", "score": 58.8, "evidence": [], "reasoning": "Short.", "weight": 40},
    ],
    "flags": ["profile truncated"],
    "model": "a-model",
}


def test_one_profile_is_added_listed_shown_and_scored(gristmill):
    """No SQL is needed from the profile to the job."""
    code, out, _ = gristmill("profiles", "add", "--name", "Ada", "--attributes", '{"skills": ["Rust"]}')
    profile = str(UUID(out.strip()))
    assert code == 0
    assert gristmill("profiles", "add", "--name", "Ada", "--attributes", '{"skills": ["Rust"]}')[1].strip() == profile

    assert [one["name"] for one in as_json(gristmill, "profiles", "list")] == ["Ada"]
    assert "Rust" in gristmill("profiles", "show", "Ada")[1]
    assert as_json(gristmill, "profiles", "show", profile)["attributes"] == {"skills": ["Rust"]}

    job = gristmill("profiles", "score", "Ada", "--prompt", "Judge depth.")[1].strip()
    shown = as_json(gristmill, "jobs", "show", job)
    assert (shown["job"]["stage"], shown["values"]["prompt"]) == ("scoring.score", "Judge depth.")


def test_a_file_of_profiles_is_added_and_all_are_scored(gristmill, tmp_path):
    """The file is JSON lines or CSV. A prompt from a file keeps its line breaks."""
    (tmp_path / "people.jsonl").write_text('{"name": "Ada", "skill": "Rust"}\n{"name": "Bob"}\n')
    (tmp_path / "prompt.txt").write_text("Judge.\n\nCriteria:\n- depth (60): knows it\n- clarity (40): says it\n")

    assert len(as_json(gristmill, "profiles", "add", "people.jsonl")) == 2
    jobs = as_json(gristmill, "profiles", "score", "--all", "--prompt", "@prompt.txt")["job_ids"]

    assert len(jobs) == 2
    shown = gristmill("jobs", "show", jobs[0])[1]
    assert "  Judge.\n\n  Criteria:" in shown.replace("  \n", "\n")
    assert "  - depth (60): knows it" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add",), 2, "give a FILE, or --name"),
        (("add", "--name", " "), 2, "name"),
        (("score", "nobody", "--prompt", "x"), 1, "does not exist; `gristmill profiles list`"),
        (("score", "--all", "--prompt", "x"), 2, "there is no profile to score"),
        (("score", "nobody"), 2, "--prompt must be a text"),
        (("score", "--prompt", "x"), 2, "give a PROFILE, or --all"),
        (("score", "nobody", "--prompt", "@none.txt"), 2, "none.txt cannot be read"),
        (("show", str(uuid4())), 1, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_remedy(gristmill, arguments, code, said):
    """Each has one line and its exit code."""
    found = gristmill("profiles", *arguments)

    assert found[0] == code
    assert said in found[2]


def test_a_score_is_read_criterion_by_criterion(gristmill, psql):
    """With bars and evidence, as for an assessment. Only --json has the answer of the model."""
    profile = gristmill("profiles", "add", "--name", "Ada")[1].strip()
    [job] = as_json(gristmill, "profiles", "score", profile, "--prompt", "Judge.")["job_ids"]
    psql.execute("UPDATE scoring.scoring_jobs SET dispatched_at = now() WHERE id = %s", [job])
    psql.execute(
        "UPDATE scoring.scoring_jobs SET status = 'processing', version = 2, started_at = now(),"
        " lease_owner = gen_random_uuid() WHERE id = %s",
        [job],
    )
    psql.execute(
        "UPDATE scoring.scoring_jobs SET status = 'completed', version = 3, progress = 100, completed_at = now(),"
        " parsed_score = %s, llm_response = '{\"raw\": 1}' WHERE id = %s",
        [json.dumps(SCORE), job],
    )

    shown = gristmill("jobs", "show", job)[1]

    assert "71.5 of 100  (by a-model)" in shown
    assert "! profile truncated" in shown
    assert "depth                   ████████·· 80   weight 60" in shown
    assert "– ten years of Rust" in shown
    assert "llm_response" not in shown
    assert as_json(gristmill, "profiles", "show", "Ada")["score"] == 71.5


async def test_a_tenant_sees_and_scores_its_own_profiles_alone(session):
    """The use-cases act for the actor: the gateway will call them."""
    ada, bob = Actor(user_id=uuid4()), Actor(user_id=uuid4())
    [hers] = await add_profiles(session, [new_profile("a", {})], actor=ada)
    [his] = await add_profiles(session, [new_profile("a", {})], actor=bob)
    await session.execute(text("SET LOCAL ROLE gristmill_service"))

    assert [one.id for one in await list_profiles(session, actor=ada)] == [hers.id]
    assert (await find_profile(session, "a", actor=bob)).id == his.id
    assert len(await score_profiles(session, None, "judge", actor=ada)) == 1
    with pytest.raises(UnknownProfile):
        await score_profiles(session, [his.id], "judge", actor=ada)


async def test_a_name_that_several_have_is_refused(session):
    """The id must be used then."""
    await add_profiles(session, [new_profile("a", {"x": 1}), new_profile("a", {"x": 2})])

    with pytest.raises(InvalidProfile, match="several have this name"):
        await find_profile(session, "a")


def blocks(language: str) -> str:
    page = (ROOT / "docs/scoring.md").read_text()
    return str(re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[0])


def test_the_page_s_sql_works_when_pasted(psql):
    """An operator pastes it into psql."""
    psql.execute(blocks("sql").encode())

    assert psql.execute("SELECT count(*) AS jobs FROM scoring.scoring_jobs WHERE status = 'pending'").fetchone() == {
        "jobs": 1
    }


def test_the_page_s_python_works_when_pasted(psql, database_url, tmp_path):
    """It is a complete script."""
    (tmp_path / "score.py").write_text(blocks("python"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "score.py")],
        env={**os.environ, "DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    [row] = psql.execute("SELECT id FROM scoring.scoring_jobs").fetchall()
    assert str(row["id"]) == done.stdout.strip()
