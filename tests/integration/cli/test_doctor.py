"""`gristmill doctor` tells of what operators chose at run time, not only of what the environment says."""

import io
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import psycopg
import pytest

from cli.doctor.servers import postgres
from local.logins import make_logins
from tests.support.fakes.openai_server import FakeOpenAI
from workers.operations.keyring import new_key


@pytest.fixture
def doctor(gristmill, monkeypatch):
    """Return the checks by name; of a database where no role runs."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    def run():
        return {check["name"]: check for check in json.loads(gristmill("doctor", "--json")[1])["checks"]}

    return run


def choose(gristmill, monkeypatch, *words, secret=""):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{secret}\n"))
    assert gristmill("settings", "set", *words)[0] == 0


def test_the_environments_provider_is_checked_where_nothing_is_chosen(doctor):
    """Nothing is configured: the offline evaluator, and how to have another."""
    checks = doctor()

    assert (checks["provider"]["state"], checks["secrets"]["state"]) == ("ok", "ok")
    assert checks["provider"]["found"].startswith("offline evaluator")
    assert checks["pgvector"]["state"] == "ok"


def test_the_chosen_provider_is_asked_and_one_that_is_away_is_named(gristmill, doctor, monkeypatch):
    """The choice comes before the environment, as for workers."""
    with FakeOpenAI() as server:
        choose(gristmill, monkeypatch, "ai_provider=lmstudio", f"ai_host={server.url}")
        there = doctor()["provider"]
    away = doctor()["provider"]

    assert (there["state"], there["found"].split(" ")[0]) == ("ok", server.url)
    assert (away["state"], away["mend"]) == (
        "failed",
        "start it, or mend `gristmill settings set ai_host` (ai_provider is lmstudio)",
    )


def test_a_secret_that_no_key_decrypts_is_named_and_not_shown(gristmill, doctor, monkeypatch):
    """Keys were lost: the setting, and what to do."""
    choose(gristmill, monkeypatch, "ai_provider=openrouter", "openrouter_key", secret="sk-or-v1-secret-value")
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    checks = doctor()

    problem = "openrouter_key: no key of GRISTMILL_SECRET_KEYS decrypts it; set it again"
    assert (checks["secrets"]["state"], checks["secrets"]["found"]) == ("failed", problem)
    assert (checks["provider"]["state"], checks["provider"]["found"]) == ("failed", problem)
    assert "sk-or" not in json.dumps(checks)


def test_keys_that_are_none_are_refused_in_a_line(doctor, monkeypatch):
    """The variable is named, its value is not."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", "hunter2")

    check = doctor()["secrets"]

    assert check["state"] == "failed"
    assert check["found"].startswith("GRISTMILL_SECRET_KEYS must be keys of 32 bytes")
    assert "hunter2" not in json.dumps(check)


async def test_a_database_without_pgvector_is_slower_and_not_sick(fresh_database_url):
    """A warning, with the way out."""
    url = fresh_database_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as psql:
        psql.execute("DROP EXTENSION vector CASCADE")

    checks = {check.name: check async for check in postgres(url, quick=False)}

    assert (checks["pgvector"].state, checks["pgvector"].found) == (
        "warning",
        "none: similarity search compares with every record",
    )
    assert "CREATE EXTENSION vector" in checks["pgvector"].mend


@contextmanager
def says(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Serve ``answer`` to whoever connects; yield where, and what was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # closed: the test has ended
                return
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", asked
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_credentials_in_the_environments_url_are_sent_and_not_shown(doctor, monkeypatch):
    """As the workers send them; with a port or without."""
    with says(OK) as (address, asked):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:s3cret@{address}/v1")
        there = doctor()["provider"]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:s3cret@localhost/v1")
    away = doctor()["provider"]

    assert (there["state"], there["found"]) == ("ok", f"http://{address}/v1 answers")
    assert b"Authorization: Basic dXNlcjpzM2NyZXQ=" in asked[0]
    assert away["found"].startswith("http://localhost/v1 ")
    assert "s3cret" not in json.dumps([there, away])


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://user:s3cret@proxy:port/v1", "sk"),
        ("http://user:s3cret@pro xy/v1", "sk"),
        ("http:///s3cret", "sk"),
        ("http://localhost/v1", "s3cret\u2026"),
    ],
)
def test_what_cannot_be_asked_is_named_by_its_setting_alone(doctor, monkeypatch, url, key):
    """Neither the URL nor the key is quoted."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)

    check = doctor()["provider"]

    assert (check["state"], check["mend"]) == ("failed", "mend OPENAI_BASE_URL, or OPENAI_API_KEY")
    assert "s3cret" not in json.dumps(check)


def test_a_redirect_is_told_and_no_key_follows_it(doctor, monkeypatch):
    """It may lead anywhere, and in the clear."""
    with (
        says(OK) as (elsewhere, asked),
        says(f"HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/v1/models\r\nContent-Length: 0\r\n\r\n".encode()) as (
            address,
            _,
        ),
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{address}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        check = doctor()["provider"]

    assert (check["state"], asked) == ("warning", [])
    assert check["found"] == f"http://{address}/v1 answers with a redirect (302), which the check does not follow"
    assert check["mend"] == "put the address that answers itself into OPENAI_BASE_URL"


def test_a_server_that_speaks_no_http_fails_its_check_alone(doctor, monkeypatch):
    """Every other check is told too."""
    with says(b"\x1b]52;c;SSH-2.0\r\n\r\n") as (address, _):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{address}/v1")
        checks = doctor()

    assert checks["provider"]["state"] == "failed"
    assert checks["provider"]["found"] == f"http://{address}/v1 answers with no HTTP (BadStatusLine)"
    assert checks["Redis"]["state"] == "ok"


def test_a_choice_that_cannot_be_read_fails_its_check_alone(doctor, monkeypatch, fresh_database_url):
    """No right, no table, no Postgres any more: every other check is told too."""
    with psycopg.connect(fresh_database_url.replace("+psycopg", ""), autocommit=True) as psql:
        psql.execute("ALTER TABLE operations.system_settings RENAME TO elsewhere")
    monkeypatch.setenv("DATABASE_URL", fresh_database_url)

    checks = doctor()

    assert checks["provider"]["state"] == "failed"
    assert checks["provider"]["found"].startswith("what operators chose cannot be read: ")
    assert checks["Redis"]["state"] == "ok"


def test_a_process_that_connects_as_a_superuser_is_told(doctor, database_url, tmp_path):
    """No right protects anything from it; one with a login of its own is as it should be."""
    worker = {one.kind: one.url for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}["worker"]
    assert doctor()["logins"]["found"].startswith("no process of ours is connected")
    with closing(psycopg.connect(worker, application_name="worker:one")):
        assert (doctor()["logins"]["state"], doctor()["logins"]["found"]) == ("ok", "worker as gristmill_worker_login")

        with closing(psycopg.connect(database_url, application_name="dispatcher:two")):
            check = doctor()["logins"]

    assert check["state"] == "warning"
    assert check["found"].endswith("gristmill is a superuser, whom no right stops")
    assert "gristmill migrate --roles" in check["mend"]


def test_a_password_that_is_no_longer_valid_fails(doctor, gristmill, database_url, tmp_path):
    """Processes that are connected do not notice; the next connection is refused. Without files nothing is said."""
    assert "passwords" not in doctor()
    gristmill("migrate", "--roles", "--new-passwords")
    assert doctor()["passwords"]["state"] == "ok"

    make_logins(database_url, tmp_path / "elsewhere", new_passwords=True)

    check = doctor()["passwords"]
    assert check["state"] == "failed"
    assert "database_url_worker is no longer valid" in check["found"]
    assert "--new-passwords" in check["mend"]


def test_several_owners_without_strict_mode_are_told(doctor, gristmill, psql):
    """Every service may speak for each of them; with one owner, or in strict mode, there is nothing to say."""
    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('a', gen_random_uuid())")
    assert doctor()["strict mode"]["state"] == "ok"

    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('b', gen_random_uuid())")
    told = doctor()["strict mode"]
    gristmill("security", "new-key")
    gristmill("security", "strict", "on")

    assert (told["state"], told["found"].partition(":")[0]) == ("warning", "off, with 2 owners")
    assert doctor()["strict mode"]["state"] == "ok"


def test_a_schedule_that_cannot_do_what_it_asks_for_is_named_with_its_reason(gristmill, doctor, psql):
    """It looks enabled in its table; a paused one is nobody's concern."""
    assert (doctor()["schedules"]["state"], doctor()["schedules"]["found"]) == ("ok", "none is refused")
    for name, enabled in (("bad", True), ("paused", False)):
        psql.execute(
            "INSERT INTO runtime.schedules (name, cron, stage, enabled) VALUES (%s, '99 * * * *', 'proving.plain', %s)",
            [name, enabled],
        )

    check = doctor()["schedules"]

    assert check["state"] == "failed"
    assert check["found"].startswith("bad: cron must have five fields")
    assert "paused" not in check["found"]
