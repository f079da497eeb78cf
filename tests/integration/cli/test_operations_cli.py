"""``gristmill projects``, ``records``, ``windows`` and ``settings`` as a person and as a script use them."""

import csv
import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cli.session import in_database
from tests.support.command_line import as_json
from workers.operations.keyring import new_key
from workers.runtime import database
from workers.vectorization.similarity_index import make_index

NOBODY = "01a20000-0000-7000-8000-000000000000"


@pytest.fixture
def corpus(gristmill, psql) -> dict[str, str]:
    """A project with a task in TOP_10, one like a formula, and a piece of feedback; return the ids by content."""
    project = as_json(gristmill, "projects", "create", "corpus")["id"]
    rows = (("TASK", "TOP_10", "write an apology"), ("TASK", None, "=1+1"), ("FEEDBACK", None, "too long"))
    ids = {"project": project}
    for type_, category, content in rows:
        [row] = psql.execute(
            'INSERT INTO operations.data_records ("projectId", type, category, source, content, "createdById", '
            "metadata) VALUES (%s, %s, %s, 'csv:a.csv', %s, 'ada', '{\"n\": \"1\"}') RETURNING id",
            [project, type_, category, content],
        )
        ids[content] = str(row["id"])
    return ids


def test_projects_are_made_listed_shown_and_removed(gristmill, corpus, tmp_path):
    """The same name again gives the same project. Removing needs --yes."""
    pdf = tmp_path / "rules.pdf"
    pdf.write_bytes(b"%PDF-1.4 and so on.")

    assert as_json(gristmill, "projects", "create", "corpus", "--guidelines", str(pdf))["id"] == corpus["project"]
    [listed] = as_json(gristmill, "projects", "list")
    assert (listed["name"], listed["tasks"], listed["feedback"], listed["embedded"]) == ("corpus", 2, 1, 0)
    assert "corpus" in gristmill("projects", "list")[1]
    assert "rules.pdf, about 21 bytes" in gristmill("projects", "show", "corpus")[1]

    code, _, said = gristmill("projects", "remove", "corpus")
    assert (code, said) == (2, "gristmill: project 'corpus' has 3 records; add --yes to delete them too")
    assert gristmill("projects", "remove", "corpus", "--yes")[1].strip() == "corpus is removed, with 3 records"
    assert as_json(gristmill, "projects", "list") == []


def test_making_an_existing_project_counts_none_of_its_records(gristmill, corpus, psql):
    """The id is printed at once, even if it has many records or they are locked."""
    with psql.transaction():
        psql.execute("LOCK TABLE operations.data_records")

        code, said, _ = gristmill("projects", "create", "corpus")

    assert (code, said.strip()) == (0, corpus["project"])


def test_embedding_a_project_enqueues_a_job_per_type(gristmill, corpus):
    """The jobs wait for a worker."""
    ids = as_json(gristmill, "projects", "embed", "corpus")["job_ids"]

    assert len(ids) == 2
    assert {job["stage"] for job in as_json(gristmill, "jobs", "list")} == {"ingestion.ingest"}


def test_records_are_listed_shown_and_reviewed(gristmill, corpus):
    """The newest is first. A review of several records changes all of them or none."""
    newest, *_ = as_json(gristmill, "records", "list", "corpus")
    assert newest["content"] == "too long"
    assert "embedding" not in newest
    assert [one["content"] for one in as_json(gristmill, "records", "list", "corpus", "--category", "top-10")] == [
        "write an apology"
    ]

    task = corpus["write an apology"]
    code, _, said = gristmill("records", "review", task, NOBODY, "--by", "ada")
    assert (code, said) == (1, f"gristmill: records {NOBODY} do not exist (any more); none was changed")
    assert gristmill("records", "review", task, "--by", "ada", "--category-wrong")[0] == 0

    code, shown, _ = gristmill("records", "show", task)
    assert code == 0
    assert "reviewed    by ada, category wrong" in shown
    assert "write an apology" in shown
    assert [one["id"] for one in as_json(gristmill, "records", "list", "corpus", "--reviewed")] == [task]
    assert "ada" in gristmill("records", "list", "corpus")[1]


def test_an_export_neutralises_formulas_and_replaces_its_file_at_the_end(gristmill, corpus, tmp_path):
    """A formula gets an apostrophe before it. A failed export leaves the old file."""
    file = tmp_path / "out.csv"
    file.write_text("before")

    assert gristmill("records", "export", "no-such-project", str(file), "--force")[0] == 1
    code, _, complaint = gristmill("records", "export", "corpus", str(file))
    assert (code, complaint) == (2, f"gristmill: {file} exists; --force overwrites it")
    assert file.read_text() == "before"
    assert gristmill("records", "export", "corpus", str(file), "--force")[2] == "3 records written"

    with file.open(newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))
    assert [row["content"] for row in rows] == ["write an apology", "'=1+1", "too long"]
    assert json.loads(rows[0]["metadata"]) == {"n": "1"}
    assert list(tmp_path.glob(".*partial")) == []
    assert gristmill("records", "export", "corpus", "-", "--type", "feedback")[1].count("too long") == 1


def exported(gristmill, *options):
    """Return the rows of an export by their content."""
    code, said, complaint = gristmill("records", "export", "corpus", "-", *options)
    assert code == 0, complaint
    return {row["content"]: row for row in csv.DictReader(io.StringIO(said, newline=""))}


def test_an_export_has_verdicts_ratings_and_similarity(gristmill, corpus, psql):
    """Ratings by people and by models are separate. Only vectors of the same model are compared."""
    task, other = corpus["write an apology"], corpus["=1+1"]
    rate = (
        'INSERT INTO operations.likert_scores ("recordId", "userId", "llmModel", "realismScore", "qualityScore") '
        "VALUES (%s, %s, %s, %s, %s)"
    )
    for person, score in (("ann", 6), ("bob", 7)):
        psql.execute(rate, [task, person, None, score, 4])
    psql.execute(rate, [task, "00000000-0000-0000-0000-000000000000", "judge-1", 2, 3])
    embed = 'UPDATE operations.data_records SET embedding = %s, "embeddingModel" = %s WHERE id = %s'
    psql.execute(embed, [[3.0, 4.0], "m", task])
    psql.execute(embed, [[-3.0, -4.0], "m", other])
    psql.execute(embed, [[3.0, 4.0], "another", corpus["too long"]])
    psql.execute(
        "UPDATE operations.data_records SET alignment = %s WHERE id = %s",
        ['{"verdict": "partly", "model": "judge-1"}', task],
    )

    rows = exported(gristmill, "--like", task)

    row = rows["write an apology"]
    assert [row[name] for name in ("verdict", "judged_by", "embedding_model")] == ["partly", "judge-1", "m"]
    assert [row[name] for name in ("people", "people_realism", "people_quality")] == ["2", "6.50", "4.00"]
    assert [row[name] for name in ("models", "models_realism", "models_quality")] == ["1", "2.00", "3.00"]
    assert [one["similarity"] for one in rows.values()] == ["1.0000", "-1.0000", ""]
    assert rows["too long"]["people"] == rows["too long"]["verdict"] == ""
    assert "similarity" not in exported(gristmill)["too long"]
    assert gristmill("records", "export", "corpus", "-", "--like", NOBODY)[0] == 1


def test_records_are_removed(gristmill, corpus):
    """The others are reported by the count and the exit code."""
    assert gristmill("records", "remove", corpus["too long"], NOBODY)[1].strip() == "1 of 2 records removed"
    assert gristmill("records", "show", corpus["too long"])[0] == 1


def test_an_index_is_made_once_for_each_length(gristmill, psql):
    """The system can run meanwhile. The index for the built-in embedder exists from the start."""
    try:
        assert gristmill("records", "index", "7")[1].strip() == "ix_data_records_embedding_7 is made"
        assert gristmill("records", "index", "7")[1].strip() == "ix_data_records_embedding_7 exists already"
        assert gristmill("records", "index", "384")[1].strip() == "ix_data_records_embedding_384 exists already"
        code, _, said = gristmill("records", "index", "4001")
        assert code == 1
        assert said.endswith("an index takes embeddings of 1 to 4000 dimensions, got 4001")
    finally:
        psql.execute("DROP INDEX IF EXISTS operations.ix_data_records_embedding_7")


def test_making_an_index_waits_for_open_transactions(gristmill, corpus, psql, database_url, monkeypatch):
    """A timeout after hours of work would leave an invalid index."""
    monkeypatch.setattr(database, "LOCK_MILLISECONDS", 50)
    waits = """SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'
                  AND now() - query_start > interval '0.3 s'"""
    try:
        with ThreadPoolExecutor(1) as pool, psycopg.connect(database_url) as other:
            other.execute("UPDATE operations.data_records SET source = 'x'")
            made = pool.submit(in_database, lambda database: make_index(database, 7))
            give_up = time.monotonic() + 20
            while not (made.done() or psql.execute(waits).fetchall()) and time.monotonic() < give_up:
                time.sleep(0.02)
            other.rollback()

            assert made.result(20) == "ix_data_records_embedding_7 is made"
    finally:
        psql.execute("DROP INDEX IF EXISTS operations.ix_data_records_embedding_7")


def test_a_bonus_window_is_made_changed_and_removed(gristmill, corpus):
    """Standings are by creator. A wrong window is refused in one line."""
    times = ("--start", "2020-01-01T00:00+00:00", "--end", "2100-01-01T00:00+00:00")
    made = as_json(gristmill, "windows", "create", "--name", "long", *times, "--tasks", "2")

    assert (made["name"], made["targetTaskCount"], made["targetTaskCountTier2"]) == ("long", 2, 0)
    [standing] = as_json(gristmill, "windows", "standings", made["id"])
    assert (standing["creator_id"], standing["task_count"], standing["tier"]) == ("ada", 2, 1)
    assert "ada" in gristmill("windows", "standings")[1]
    assert as_json(gristmill, "windows", "update", made["id"], "--tasks", "3")["targetTaskCount"] == 3
    assert [one["name"] for one in as_json(gristmill, "windows", "list", "--open")] == ["long"]
    assert "long" in gristmill("windows", "list")[1]

    code, _, said = gristmill("windows", "update", made["id"], "--end", "2019-01-01T00:00+00:00")
    assert (code, said) == (2, "gristmill: end must be later than start 2020-01-01T00:00:00+00:00")
    assert gristmill("windows", "remove", made["id"])[0] == 0
    code, _, said = gristmill("windows", "standings", made["id"])
    assert code == 1
    assert said.endswith("does not exist; `gristmill windows list` shows them")


def test_settings_are_set_listed_rotated_and_removed(gristmill, monkeypatch):
    """A secret is read from standard input and never shown."""
    old, new = new_key(), new_key()
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", old)
    monkeypatch.setattr(sys, "stdin", __import__("io").StringIO("sk-or-v1-secret-value\n"))

    assert gristmill("settings", "set", "openrouter_key")[1].strip() == "openrouter_key is set"
    assert gristmill("settings", "set", "ai_provider", "openrouter")[0] == 0
    code, listed, said = gristmill("settings", "list")
    assert code == 0
    assert "sk-or" not in listed + said
    assert "(set, encrypted)" in listed
    assert said == "not set: ai_host, llm_model, embedding_model, openai_key"

    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", f"{new},{old}")
    assert gristmill("settings", "rotate")[1].strip() == "1 secret encrypted with the first key"
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new)
    assert gristmill("settings", "rotate")[0] == 0
    assert gristmill("settings", "remove", "openrouter_key")[1].strip() == "openrouter_key is removed"
    assert gristmill("settings", "remove", "openrouter_key")[2] == "openrouter_key was not set"
    code, _, said = gristmill("settings", "set", "ai_provider", "lmstudi")
    assert code == 2
    assert said == "gristmill: ai_provider must be one of lmstudio, openrouter, openai, offline, got 'lmstudi'"


def test_settings_that_belong_together_are_set_together(gristmill, monkeypatch):
    """A secret is read. The host of the last provider is removed, with a remark. After a mistake none is set."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())
    assert gristmill("settings", "set", "ai_provider=lmstudio", "ai_host=http://gpu:1234/v1")[0] == 0
    monkeypatch.setattr(sys, "stdin", __import__("io").StringIO("sk-or-v1-secret-value\n"))

    code, out, said = gristmill("settings", "set", "ai_provider=openrouter", "openrouter_key", "llm_model=v/m:free")

    assert code == 0
    assert out.split("\n")[:3] == ["ai_provider is set", "openrouter_key is set", "llm_model is set"]
    assert said == "ai_host is removed: it belonged to another provider"
    for wrong, line in {
        ("ai_provider=openai", "ai_provider=offline"): "ai_provider is given twice",
        ("ai_provider=openai", "color=red"): "'color' is not a system setting; settings: ",
        ("ai_provider=openai", "llm_model=no spaces"): "llm_model must be a model name",
    }.items():
        code, _, said = gristmill("settings", "set", *wrong)
        assert (code, said.startswith(f"gristmill: {line}")) == (2, True), said
    assert "openrouter " in gristmill("settings", "list")[1]


def test_a_new_key_is_valid(gristmill, monkeypatch):
    """The setting accepts what the command prints."""
    key = gristmill("settings", "new-key")[1].strip()

    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", key)
    monkeypatch.setattr(sys, "stdin", __import__("io").StringIO("sk-0123456789\n"))
    assert gristmill("settings", "set", "openai_key")[0] == 0


@pytest.mark.parametrize("words", [("openai_key", "sk-0123456789"), ("openai_key=sk-0123456789",)])
def test_a_secret_is_not_taken_from_the_command_line(gristmill, words):
    """A list of processes would show it. The refusal does not repeat it."""
    code, out, said = gristmill("settings", "set", *words)

    assert (code, out) == (2, "")
    assert said == "gristmill: openai_key is a secret: leave its value out, it is read from standard input"
