"""Settings: one spelling of each key, hosts that are plain addresses, and no unencrypted secret, at every door."""

import io
import sys

import pytest
from psycopg import errors
from sqlalchemy import text

from workers.operations.keyring import Keyring, new_key
from workers.operations.refusals import OperationsError
from workers.operations.system_settings import HOST_RULE, KNOWN_SETTINGS, list_settings, list_unreadable, put, remove

TOKEN = Keyring([new_key()]).encrypt("sk-or-v1-0123456789abcdef")
INSERT = "INSERT INTO operations.system_settings (key, value) VALUES (%s, %s)"

MISSPELT = [
    "OPENROUTER_KEY",
    "openrouter_key ",
    " openrouter_key",
    "Openai_Key",
    "openrouter-key",
    "anthropic_key",
    "note",
]
HOSTS = [
    "https://h/v1?key=sk-or-v1-0123456789",
    "https://h/v1?x",
    "https://h/v1#part",
    "https://user@h/v1",
    "https://user:pass@h/v1",
    "https://h/v1\nHost: evil",
    "https://h/v1\t",
    "https://h /v1",
    "https://h/v 1",
    "https://h\\evil/v1",
    "https://h/v1\x7f",
    "https://h\u00a0/v1",
    "https://h/sk-or-v1-0123456789abcdef/v1",
    "https://",
    "https:///v1",
    "https://-h-/v1",
    "https://[::1/v1",
    "https://h:123456/v1",
    "ftp://h/v1",
]
GOOD_HOSTS = [
    "http://localhost:1234/v1",
    "https://openrouter.ai/api/v1",
    "http://[::1]:8080/v1",
    "http://my_host.internal",
    "https://host/a-b_c/~v1/%20/",
]


@pytest.mark.parametrize("key", MISSPELT)
async def test_a_setting_has_one_spelling(session, key):
    """A misspelt key would be stored unencrypted and never read."""
    with pytest.raises(OperationsError, match="is not a system setting") as refused:
        await put(session, {key: "sk-or-v1-0123456789abcdef"}, keyring=Keyring([new_key()]))

    assert "0123456789abcdef" not in str(refused.value)
    assert await list_settings(session) == []


@pytest.mark.parametrize("key", MISSPELT)
@pytest.mark.parametrize("value", ["sk-or-v1-0123456789abcdef", TOKEN, "red"])
def test_a_setting_has_one_spelling_in_sql_too(psql, key, value):
    """This holds for any value."""
    with pytest.raises(errors.CheckViolation):
        psql.execute(INSERT, [key, value])


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_is_a_plain_address(session, host):
    """No query, fragment, user, space or control character is allowed, because these may hold a key or end a line."""
    with pytest.raises(OperationsError, match=HOST_RULE) as refused:
        await put(session, {"ai_host": f"{host}x" if host.endswith("\t") else host}, keyring=Keyring([]))

    assert "sk-or-v1" not in str(refused.value)


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_a_plain_address_in_sql_too(psql, host):
    """The same list is refused. In SQL a port is any number of up to five digits; Python also checks its range."""
    with pytest.raises(errors.CheckViolation, match="ck_system_settings_value"):
        psql.execute(INSERT, ["ai_host", host])


@pytest.mark.parametrize("host", GOOD_HOSTS)
async def test_a_plain_address_is_taken(session, host):
    """Python and the CHECK accept it."""
    await put(session, {"ai_host": host}, keyring=Keyring([]))

    assert [one.value for one in await list_settings(session)] == [host]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llm_model", "sk-or-v1-0123456789abcdef"),
        ("embedding_model", "vendor/sk-proj-0123456789"),
        ("openai_key", "sk-proj-0123456789abcdef"),
        ("openai_key", "gAAAA and then in the clear"),
        ("openrouter_key", f"{TOKEN}\n"),
    ],
)
def test_no_secret_is_kept_in_the_clear(psql, key, value):
    """A key is refused instead of a token and instead of a model, from everybody."""
    with pytest.raises(errors.CheckViolation, match="ck_system_settings_value"):
        psql.execute(INSERT, [key, value])


def test_a_description_holds_no_secret(psql):
    """Everybody who lists the settings sees it."""
    with pytest.raises(errors.CheckViolation, match="ck_system_settings_description"):
        psql.execute(
            "INSERT INTO operations.system_settings (key, value, description) VALUES ('openai_key', %s, %s)",
            [TOKEN, "was sk-proj-0123456789abcdef"],
        )


async def test_what_looks_like_a_key_is_not_quoted(session):
    """The key was meant for another setting, and the refusal is shown in a terminal and a log."""
    with pytest.raises(OperationsError, match=r"llm_model must be a model name .* got a hidden value"):
        await put(session, {"llm_model": "sk-or-v1-0123456789abcdef"}, keyring=Keyring([]))


def test_the_command_line_keeps_a_misspelt_secret_nowhere(gristmill, psql, monkeypatch):
    """One line suggests the right setting; neither the output nor the table has the value."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())
    monkeypatch.setattr(sys, "stdin", io.StringIO("sk-or-v1-0123456789abcdef\n"))

    code, output, said = gristmill("settings", "set", "OPENROUTER_KEY")

    assert (code, output) == (2, "")
    assert said == "gristmill: 'OPENROUTER_KEY' is not a system setting; did you mean openrouter_key?"
    assert psql.execute("SELECT count(*) AS n FROM operations.system_settings").fetchone() == {"n": 0}


async def test_a_row_of_an_older_release_is_reported_and_can_be_removed(session):
    """The doctor names it without its value."""
    await session.execute(text("ALTER TABLE operations.system_settings DROP CONSTRAINT ck_system_settings_key"))
    await session.execute(text("ALTER TABLE operations.system_settings DROP CONSTRAINT ck_system_settings_value"))
    for key, value in (("my_note", "hunter2"), ("ai_host", "https://h/v1?key=hunter2")):
        row = {"key": key, "value": value}
        await session.execute(text("INSERT INTO operations.system_settings (key, value) VALUES (:key, :value)"), row)

    told = await list_unreadable(session, keyring=Keyring([]))

    assert told == [
        f"ai_host must {HOST_RULE}: set it again",
        "'my_note' is not a setting: `gristmill settings remove` it, it may hold an unencrypted key",
    ]
    assert await remove(session, "my_note") == ["my_note"]


def test_the_release_and_the_database_know_the_same_settings(psql):
    """Otherwise a setting could not be set, or would be stored without a rule."""
    rule = psql.execute(
        "SELECT pg_get_constraintdef(oid) AS rule FROM pg_constraint WHERE conname = 'ck_system_settings_key'"
    ).fetchone()

    assert {key for key in KNOWN_SETTINGS if f"'{key}'" in rule["rule"]} == set(KNOWN_SETTINGS)
    assert rule["rule"].count("'::character varying") == len(KNOWN_SETTINGS)
