"""``gristmill similar`` as a person and as a script use it, on a real database."""

import json
from functools import partial

import psycopg
import pytest

from tests.support.fakes.openai_server import FakeOpenAI
from workers.llm import feature_hash

TEXTS = {
    "Write a poem about the sea": ("TASK", "TOP_10"),
    "Write a short poem about the sea and the wind": ("TASK", None),
    "The poem about the sea was too long": ("FEEDBACK", None),
    "Explain fractions to beginners": ("TASK", "BOTTOM_10"),
}


@pytest.fixture
def gristmill(gristmill):
    """Run one search."""
    return partial(gristmill, "similar")


@pytest.fixture
def records(database_url):
    """Embed the texts by the offline embedder in a project named prompts; return their ids by text."""
    sql = """INSERT INTO operations.data_records
                    ("projectId", type, category, source, content, embedding, "embeddingModel")
             VALUES (%s, %s::operations."RecordType", %s::operations."RecordCategory", 'test', %s, %s::real[], %s)
             RETURNING id"""
    with psycopg.connect(database_url, autocommit=True) as connection:
        [(project,)] = connection.execute(
            "INSERT INTO operations.projects (name) VALUES ('prompts') RETURNING id"
        ).fetchall()
        ids = {}
        for text, (type_, category) in TEXTS.items():
            vector = list(feature_hash.vector(text))
            [(ids[text],)] = connection.execute(
                sql, (project, type_, category, text, vector, feature_hash.MODEL)
            ).fetchall()
    return ids


def found(gristmill, *arguments):
    code, output, said = gristmill(*arguments, "--json")
    assert code == 0, said
    return [match["content"] for match in json.loads(output)]


def test_text_finds_records_that_say_the_same(gristmill, records):
    """The best match is first. The provider that embeds records embeds the text."""
    poems = ["Write a poem about the sea", "Write a short poem about the sea and the wind"]

    assert found(gristmill, "write a poem about the SEA", "--project", "prompts", "--limit", "2") == poems
    assert found(gristmill, "a poem about the sea", "--type", "feedback") == ["The poem about the sea was too long"]
    assert found(gristmill, "a poem", "--category", "bottom_10", "--exact") == ["Explain fractions to beginners"]


def test_a_record_finds_similar_records(gristmill, records):
    """The record itself is left out. The table has similarity, id and the beginning of the content."""
    text = "Write a poem about the sea"

    code, output, _ = gristmill("--record", str(records[text]), "--limit", "1")

    assert code == 0
    assert "SIMILARITY" in output
    assert str(records["Write a short poem about the sea and the wind"]) in output
    assert str(records[text]) not in output


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ((), 2, "give a TEXT or --record ID to compare with"),
        (("a", "--record", "00000000-0000-0000-0000-000000000000"), 2, "give a TEXT or --record ID"),
        ((" ",), 2, "TEXT must not be empty"),
        (("--record", "00000000-0000-0000-0000-000000000000"), 1, "does not exist (any more)"),
        (("a", "--project", "nobody's"), 1, 'project "nobody\'s" does not exist'),
        (("a", "--type", "poems"), 2, "type must be"),
    ],
)
def test_wrong_usage_is_one_line(gristmill, records, arguments, code, line):
    """Each has the exit code of its kind."""
    ended, output, said = gristmill(*arguments)

    assert (ended, output) == (code, "")
    assert line in said
    assert len(said.splitlines()) == 1


def test_the_call_of_a_command_is_admitted_and_in_the_ledger(gristmill, psql, monkeypatch):
    """It belongs to no job and to no worker; a limit that has no room for it refuses it in one line."""
    with FakeOpenAI() as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("GRISTMILL_LLM__EMBEDDING_MODEL", "embed-1")
        code, _, said = gristmill("a", "--json")
        psql.execute(
            "INSERT INTO llm.limits (provider, measure, at_most, window_seconds)"
            " VALUES ('environment', 'requests', 0, 60)"
        )
        refused = gristmill("a", "--json")

    assert (code, said) == (0, "")
    [row] = psql.execute("SELECT job_id, worker_id, provider, model, kind, state FROM llm.calls").fetchall()
    assert list(row.values()) == [None, None, "environment", "embed-1", "embeddings", "unpriced"]
    assert refused[0] == 1
    assert "requests per minute of provider environment" in refused[2]
    assert len(refused[2].splitlines()) == 1


def test_a_provider_that_cannot_embed_is_reported_in_one_line(gristmill, records, monkeypatch):
    """The line has the reason of the provider."""
    with FakeOpenAI() as fake:
        fake.script(embeddings={"faults": [{"kind": "status", "status": 401}]})
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        _, _, unnamed = gristmill("a")
        monkeypatch.setenv("GRISTMILL_LLM__EMBEDDING_MODEL", "embed-1")
        _, _, refused = gristmill("a")
        code, output, said = gristmill("a", "--json")

    assert unnamed.endswith("set GRISTMILL_LLM__EMBEDDING_MODEL, or embedding_model in the system settings")
    assert "the text cannot be embedded: provider " in refused
    assert "refused the credentials" in refused
    assert (code, json.loads(output), said) == (0, [], "")
