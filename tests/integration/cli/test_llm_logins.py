"""`gristmill llm` under each login that `migrate --roles` makes: operators may all, workers look, others nothing."""

import pytest

from local.logins import make_logins
from tests.support.admission import Rows, call
from workers.operations.keyring import new_key

LOOK: list[tuple[str, ...]] = [
    ("llm", "providers"),
    ("llm", "routes"),
    ("llm", "prices"),
    ("llm", "limits"),
    ("llm", "budgets"),
    ("llm", "spend"),
    ("llm", "calls"),
]
WRITE: list[tuple[str, ...]] = [
    ("llm", "providers", "add", "local", "--kind", "compatible", "--base-url", "http://127.0.0.1:1/v1"),
    ("llm", "providers", "set", "local", "--base-url", "http://127.0.0.1:2/v1"),
    ("llm", "providers", "pause", "local"),
    ("llm", "resume"),
    ("llm", "routes", "add", "fast", "--step", "local/m"),
    ("llm", "routes", "steps", "fast", "--step", "local/n"),
    ("llm", "routes", "bind", "fast", "--stage", "proving.plain"),
    ("llm", "routes", "unbind", "--stage", "proving.plain"),
    ("llm", "routes", "remove", "fast"),
    ("llm", "prices", "set", "--provider", "local", "--model", "m", "--input", "1"),
    ("llm", "prices", "remove", "--provider", "local", "--model", "m"),
    ("llm", "limits", "set", "--provider", "local", "--requests-per-minute", "1"),
    ("llm", "budgets", "set", "b", "--usd", "1"),
    ("llm", "budgets", "remove", "b"),
    ("llm", "providers", "remove", "local"),
]


WRITES_OF_A_WORKER: list[tuple[str, ...]] = [
    WRITE[0],
    ("llm", "prices", "set", "--provider", "environment", "--model", "m", "--input", "1"),
    ("llm", "limits", "set", "--provider", "environment", "--requests-per-minute", "1"),
    ("llm", "budgets", "set", "b", "--usd", "1"),
]


@pytest.fixture
def act(gristmill, database_url, tmp_path, monkeypatch, psql):
    """Run a command as one kind of login; there is a call in the ledger and a provider that is away."""
    urls = {one.kind: one.url for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())
    Rows(psql).admit(call())
    psql.execute(
        "INSERT INTO runtime.provider_pauses (provider, since, until, reason) VALUES ('x', now(), now(), 'away')"
    )

    def run(kind, *words):
        monkeypatch.setenv("DATABASE_URL", urls[kind])
        return gristmill(*words)

    return run


def test_an_operator_does_everything(act):
    """Providers, routes, prices, limits, budgets; and reads the whole ledger."""
    for words in (*WRITE, *LOOK):
        code, _, said = act("operator", *words)

        assert code == 0, (words, said)


def test_a_worker_looks_and_changes_nothing(act):
    """What is refused is one line, and no traceback."""
    for words in LOOK:
        assert act("worker", *words)[0] == 0, words
    for words in WRITES_OF_A_WORKER:
        code, _, said = act("worker", *words)

        assert code == 1, words
        assert said.startswith("gristmill: ")
        assert "denied" in said or "may not" in said


@pytest.mark.parametrize("kind", ["service", "gateway"])
def test_services_have_nothing_here(act, kind):
    """Neither keys nor what others spend."""
    for words in (*LOOK, WRITE[0], WRITE[12]):
        code, output, said = act(kind, *words)

        assert (code, output) == (1, ""), words
        assert said.startswith("gristmill: ")
