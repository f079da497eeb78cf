"""Settings: their sources, and the one line about a wrong one."""

import os
import stat
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config.settings import Settings, SettingsError, list_settings, load
from tests.support.paths import ROOT

DEFAULTS = list_settings(Settings.model_construct())


def numeric_fields(model: type[BaseModel]) -> list[FieldInfo]:
    """Return every field of ``model`` that is a number, also of nested models."""
    found: list[FieldInfo] = []
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += numeric_fields(field.annotation)
        elif field.annotation in {int, float}:
            found.append(field)
    return found


NUMERIC_FIELDS = numeric_fields(Settings)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """Run in an empty folder without any of our variables."""
    for name in list(os.environ):
        if name.upper().startswith("GRISTMILL_") or name in {row.variable for row in DEFAULTS}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_yields_the_documented_defaults():
    """A new user needs no setting."""
    assert list_settings(load()) == DEFAULTS


def test_sources_win_in_the_documented_order(monkeypatch, tmp_path):
    """A command's option wins over the environment, then comes .env, then a secret file."""
    (tmp_path / "gristmill_worker__slots").write_text("1\n")
    (tmp_path / "gristmill_worker__queues").write_text("a, b\n")
    (tmp_path / "database_url").write_text("postgresql://from-secret/\n")
    Path(".env").write_text("GRISTMILL_WORKER__SLOTS=2\nGRISTMILL_WORKER__GRACE_SECONDS=2\nOTHER=ignored\n")
    monkeypatch.setenv("GRISTMILL_WORKER__SLOTS", "3")
    monkeypatch.setenv("GRISTMILL_WORKER__HEARTBEAT_SECONDS", "3")

    settings = load(secrets_dir=tmp_path, worker={"slots": 4})

    worker = settings.worker
    assert (worker.slots, worker.heartbeat_seconds, worker.grace_seconds, worker.queues) == (4, 3.0, 2.0, ("a", "b"))
    assert settings.database_url
    assert settings.database_url.get_secret_value() == "postgresql://from-secret/"


def test_empty_values_count_as_unset(monkeypatch, tmp_path):
    """Compose files pass `${NAME:-}` and create empty secrets. Neither counts as a value."""
    (tmp_path / "openai_api_key").write_text("")
    (tmp_path / "gristmill_flower__basic_auth").write_text("\n")
    monkeypatch.setenv("DATABASE_URL", "")

    assert list_settings(load(secrets_dir=tmp_path)) == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("GRISTMILL_WORKER__SLOTS", "0", "must be greater than or equal to 1, got '0'"),
        ("GRISTMILL_WORKER__SLOTS", "many", "must be a valid integer, got 'many'"),
        ("GRISTMILL_WORKER__LEASE_SECONDS", "9", "must exceed three heartbeats (15 s), got '9'"),
        ("GRISTMILL_WORKER__GRACE_SECONDS", "inf", "must be a finite number, got 'inf'"),
        ("GRISTMILL_LOG_FORMAT", "xml", "must be 'auto', 'json' or 'console', got 'xml'"),
        ("OPENAI_BASE_URL", "ftp://u:hunter2@h", "must start with http:// or https://, got 'ftp://u:***@h'"),
        ("REDIS_URL", "http://:hunter2@h/0", "must start with redis:// or rediss://, got 'http://:***@h/0'"),
        ("GRISTMILL_FLOWER__BASIC_AUTH", "hunter2", "must be user:password, got '***'"),
        ("SMTP_URL", "http://u:hunter2@h", "must start with smtp:// or smtps://, got 'http://u:***@h'"),
        ("SMTP_URL", "smtp://", "must name a host and a port, such as smtp://host:587, got 'smtp://'"),
        ("SMTP_URL", "smtp://h:port", "must name a host and a port, such as smtp://host:587, got 'smtp://h:port'"),
        (
            "GRISTMILL_OUTBOUND__ALLOW",
            "fd00::/8, 10.0.0.1/8",
            "must be networks such as 127.0.0.0/8, got 'fd00::/8, 10.0.0.1/8'",
        ),
        (
            "GRISTMILL_OUTBOUND__MAIL_FROM",
            "the mill",
            "must be one address, such as Gristmill <gristmill@example.com>, got 'the mill'",
        ),
        ("GRISTMILL_WORKER__SLOT", "1", "is not a setting; did you mean GRISTMILL_WORKER__SLOTS?"),
        ("GRISTMILL_WORKER", "{}", "is not a setting; did you mean GRISTMILL_WORKER__SLOTS?"),
        ("GRISTMILL_TAG", "1", "is not a setting; `gristmill config` lists all of them"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(monkeypatch, variable, value, line):
    """The line has the variable, the rule and the value, but no secret."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as refusal:
        load()

    assert str(refusal.value) == f"{variable} {line}"


def test_a_default_that_another_setting_makes_wrong_is_refused(monkeypatch):
    """With slower heartbeats and the default lease, leases could expire between two heartbeats."""
    monkeypatch.setenv("GRISTMILL_WORKER__HEARTBEAT_SECONDS", "20")

    with pytest.raises(SettingsError, match=r"^GRISTMILL_WORKER__LEASE_SECONDS must exceed .* \(60 s\), got 30.0$"):
        load()


def test_flower_beyond_loopback_needs_a_password(monkeypatch):
    """Setting only the address must not open Flower to a network."""
    monkeypatch.setenv("GRISTMILL_FLOWER__ADDRESS", "0.0.0.0")  # noqa: S104 - the address that must be refused
    with pytest.raises(SettingsError, match=r"^GRISTMILL_FLOWER__BASIC_AUTH must be set to user:password, because"):
        load()

    monkeypatch.setenv("GRISTMILL_FLOWER__BASIC_AUTH", "operator:hunter2")
    assert load().flower.basic_auth


TOKENS = {
    "GRISTMILL_GATEWAY__ISSUER": "https://issuer.test/",
    "GRISTMILL_GATEWAY__AUDIENCE": "gristmill",
    "GRISTMILL_GATEWAY__JWKS_URL": "https://issuer.test/jwks",
}


@pytest.mark.parametrize("missing", TOKENS)
def test_an_issuer_of_tokens_is_set_wholly_or_not_at_all(monkeypatch, missing):
    """Without its audience, tokens for other services would be accepted."""
    for name, value in TOKENS.items():
        if name != missing:
            monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match="GRISTMILL_GATEWAY__JWKS_URL must be set together with"):
        load()
    monkeypatch.setenv(missing, TOKENS[missing])
    assert load().gateway.audience == "gristmill"


@pytest.mark.parametrize(
    "url", ["http://issuer.test/jwks", "ftp://issuer.test/", "https://", "issuer.test", "file:///keys"]
)
def test_the_keys_of_an_issuer_come_over_https(monkeypatch, url):
    """Somebody on the way could put in a key of their own."""
    for name, value in (TOKENS | {"GRISTMILL_GATEWAY__JWKS_URL": url}).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match="GRISTMILL_GATEWAY__JWKS_URL must be an https URL, or an http URL of this"):
        load()


def test_the_key_that_signs_actors_is_hexadecimal_and_never_shown(monkeypatch):
    """As `gristmill security new-key` prints it."""
    monkeypatch.setenv("GRISTMILL_GATEWAY__ACTOR_KEY", "not-a-key-but-secret")

    with pytest.raises(SettingsError, match="GRISTMILL_GATEWAY__ACTOR_KEY must be 64 hexadecimal digits") as caught:
        load()
    assert "not-a-key" not in str(caught.value)


def test_every_wrong_value_is_named_at_once(monkeypatch):
    """Two mistakes are reported together, in one line."""
    monkeypatch.setenv("GRISTMILL_WORKER__SLOTS", "0")
    monkeypatch.setenv("DATABASE_URL", "mysql://app:hunter2@db/x")

    with pytest.raises(SettingsError) as refusal:
        load()

    line = str(refusal.value)
    assert "GRISTMILL_WORKER__SLOTS must" in line
    assert "DATABASE_URL must start with postgresql://" in line
    assert "hunter2" not in line
    assert "\n" not in line


def test_a_typing_error_in_the_dotenv_file_is_refused():
    """A setting that nothing reads must not be accepted silently."""
    Path(".env").write_text("GRISTMILL_WORKER__SLOT=5\n")

    with pytest.raises(SettingsError, match="did you mean GRISTMILL_WORKER__SLOTS"):
        load()


def test_an_unreadable_dotenv_file_is_one_line():
    """A broken file is reported in one line, without a traceback."""
    Path(".env").write_bytes(b"A=\xff\xfe")

    with pytest.raises(SettingsError, match=r"^settings cannot be read from \.env"):
        load()


def test_an_override_that_is_no_setting_is_a_programming_error():
    """A misspelt option name must not be ignored."""
    with pytest.raises(TypeError, match="no setting is named slots"):
        load(slots=5)


def test_description_masks_secrets(monkeypatch):
    """The output of `gristmill config` can be pasted into a ticket: it shows hosts, but no passwords or keys."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@db:5432/gristmill?password=hunter2")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    settings = load()

    shown = {row.variable: row.value for row in list_settings(settings)}

    assert shown["DATABASE_URL"] == "postgresql://app:***@db:5432/gristmill?password=***"
    assert shown["OPENAI_API_KEY"] == "***"
    assert "hunter2" not in repr(settings)


def test_env_example_lists_every_setting_with_default_and_meaning():
    """A setting without an entry in .env.example fails here. The expected text is the right content of the file."""
    head = (
        "# Copy to .env and uncomment what should differ; the environment wins over this file.\n"
        "# The list with the values in force: gristmill config\n"
    )
    expected = head + "".join(f"\n# {row.meaning}\n#{row.variable}={row.default or ''}\n" for row in DEFAULTS)

    assert (ROOT / ".env.example").read_text() == expected


def test_env_example_uncommented_is_accepted():
    """Copying the example and uncommenting every line changes no setting."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    Path(".env").write_text("\n".join(line.removeprefix("#") for line in lines if not line.startswith("# ")))

    assert list_settings(load()) == DEFAULTS


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_secret_is_one_line(tmp_path):
    """A secret mounted for another user is reported in one line, without a traceback."""
    (tmp_path / "database_url").touch(mode=stat.S_IWUSR)

    with pytest.raises(SettingsError, match="settings cannot be read"):
        load(secrets_dir=tmp_path)


def numbers() -> list[str]:
    """Return the variable of every setting that is a number, also of nested settings."""
    return [row.variable for row in DEFAULTS if row.default is not None and row.default.replace(".", "", 1).isdecimal()]


def test_every_number_is_found():
    assert len(numbers()) == len(NUMERIC_FIELDS)


@pytest.mark.parametrize("value", ["1e300", "nan", "inf", "-inf", "-1", str(10**30), "999999999999"])
@pytest.mark.parametrize("variable", numbers())
def test_a_number_far_out_is_refused_at_start_in_one_line(monkeypatch, variable, value):
    """No setting accepts a number that would fail later, at its first use."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as caught:
        load()

    assert str(caught.value).startswith(f"{variable} must ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", NUMERIC_FIELDS, ids=lambda field: field.description)
def test_every_number_declares_its_minimum_and_its_maximum(field):
    rules = {
        name for rule in field.metadata for name in ("ge", "gt", "le", "lt") if getattr(rule, name, None) is not None
    }
    assert rules & {"ge", "gt"}
    assert rules & {"le", "lt"}
