"""`gristmill doctor` checks the provider that operators chose, not only the configured one."""

import io
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import psycopg
import pytest

from cli.doctor.servers import check_postgres
from local.logins import make_logins
from tests.support.fakes.openai_server import FakeOpenAI
from workers.operations.keyring import new_key


@pytest.fixture
def doctor(gristmill, monkeypatch):
    """Return the checks by name, for a database without running roles."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    def run():
        return {check["name"]: check for check in json.loads(gristmill("doctor", "--json")[1])["checks"]}

    return run


def choose(gristmill, monkeypatch, *words, secret=""):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{secret}\n"))
    assert gristmill("settings", "set", *words)[0] == 0


def test_the_configured_provider_is_checked_if_none_is_chosen(doctor):
    """Nothing is configured: the check names the offline evaluator, and how to use another one."""
    checks = doctor()

    assert (checks["provider"]["state"], checks["secrets"]["state"]) == ("ok", "ok")
    assert checks["provider"]["found"].startswith("offline evaluator")
    assert checks["pgvector"]["state"] == "ok"


def test_the_chosen_provider_is_asked_and_one_that_is_away_is_named(gristmill, doctor, monkeypatch):
    """The choice comes before the environment, as it does for workers."""
    with FakeOpenAI() as server:
        choose(gristmill, monkeypatch, "ai_provider=lmstudio", f"ai_host={server.url}")
        there = doctor()["provider"]
    away = doctor()["provider"]

    assert (there["state"], there["found"].split(" ")[0]) == ("ok", server.url)
    assert (away["state"], away["remedy"]) == (
        "failed",
        "start it, or correct `gristmill settings set ai_host` (ai_provider is lmstudio)",
    )


def test_a_secret_that_no_key_decrypts_is_named_and_not_shown(gristmill, doctor, monkeypatch):
    """Keys were lost: the check names the setting and the remedy."""
    choose(gristmill, monkeypatch, "ai_provider=openrouter", "openrouter_key", secret="sk-or-v1-secret-value")
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    checks = doctor()

    problem = "openrouter_key: no key of GRISTMILL_SECRET_KEYS decrypts it; set it again"
    assert (checks["secrets"]["state"], checks["secrets"]["found"]) == ("failed", problem)
    assert (checks["provider"]["state"], checks["provider"]["found"]) == ("failed", problem)
    assert "sk-or" not in json.dumps(checks)


def test_invalid_keys_are_refused_in_one_line(doctor, monkeypatch):
    """The line names the variable, not its value."""
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", "hunter2")

    check = doctor()["secrets"]

    assert check["state"] == "failed"
    assert check["found"].startswith("GRISTMILL_SECRET_KEYS must be keys of 32 bytes")
    assert "hunter2" not in json.dumps(check)


async def test_a_database_without_pgvector_is_a_warning(fresh_database_url):
    """The search is slower. The check has the remedy."""
    url = fresh_database_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as psql:
        psql.execute("DROP EXTENSION vector CASCADE")

    checks = {check.name: check async for check in check_postgres(url, quick=False)}

    assert (checks["pgvector"].state, checks["pgvector"].found) == (
        "warning",
        "none: similarity search compares with every record",
    )
    assert "CREATE EXTENSION vector" in checks["pgvector"].remedy


@contextmanager
def says(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Serve ``answer`` to every client; yield the address and the received requests."""
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
    """As the workers send them, with and without a port."""
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
def test_an_invalid_address_or_key_is_named_by_its_setting(doctor, monkeypatch, url, key):
    """Neither the URL nor the key is quoted."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)

    check = doctor()["provider"]

    assert (check["state"], check["remedy"]) == ("failed", "correct OPENAI_BASE_URL, or OPENAI_API_KEY")
    assert "s3cret" not in json.dumps(check)


def test_a_redirect_is_told_and_no_key_follows_it(doctor, monkeypatch):
    """A redirect may lead to any server, and without encryption."""
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
    assert check["remedy"] == "set OPENAI_BASE_URL to the address that the redirect leads to"


def test_a_server_without_http_fails_only_its_own_check(doctor, monkeypatch):
    """All other checks are made too."""
    with says(b"\x1b]52;c;SSH-2.0\r\n\r\n") as (address, _):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{address}/v1")
        checks = doctor()

    assert checks["provider"]["state"] == "failed"
    assert checks["provider"]["found"] == f"http://{address}/v1 does not answer with HTTP (BadStatusLine)"
    assert checks["Redis"]["state"] == "ok"


def test_a_choice_that_cannot_be_read_fails_only_its_own_check(doctor, monkeypatch, fresh_database_url):
    """Whatever the reason is, all other checks are made too."""
    with psycopg.connect(fresh_database_url.replace("+psycopg", ""), autocommit=True) as psql:
        psql.execute("ALTER TABLE operations.system_settings RENAME TO elsewhere")
    monkeypatch.setenv("DATABASE_URL", fresh_database_url)

    checks = doctor()

    assert checks["provider"]["state"] == "failed"
    assert checks["provider"]["found"].startswith("the choice of the operators cannot be read: ")
    assert checks["Redis"]["state"] == "ok"


def test_a_process_that_connects_as_a_superuser_is_a_warning(doctor, database_url, tmp_path):
    """No right restricts a superuser. A process with its own login is ok."""
    worker = {one.kind: one.url for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}["worker"]
    assert doctor()["logins"]["found"].startswith("no process of ours is connected")
    with closing(psycopg.connect(worker, application_name="worker:one")):
        assert (doctor()["logins"]["state"], doctor()["logins"]["found"]) == ("ok", "worker as gristmill_worker_login")

        with closing(psycopg.connect(database_url, application_name="dispatcher:two")):
            check = doctor()["logins"]

    assert check["state"] == "warning"
    assert check["found"].endswith("gristmill is a superuser, which no right restricts")
    assert "gristmill migrate --roles" in check["remedy"]


def test_a_password_that_is_no_longer_valid_fails(doctor, gristmill, database_url, tmp_path):
    """Connected processes do not notice it; their next connection fails. Without files there is no check."""
    assert "passwords" not in doctor()
    gristmill("migrate", "--roles", "--new-passwords")
    assert doctor()["passwords"]["state"] == "ok"

    make_logins(database_url, tmp_path / "elsewhere", new_passwords=True)

    check = doctor()["passwords"]
    assert check["state"] == "failed"
    assert "database_url_worker is no longer valid" in check["found"]
    assert "--new-passwords" in check["remedy"]


def test_several_owners_without_strict_mode_are_a_warning(doctor, gristmill, psql):
    """Every service may act for each owner. With one owner, or in strict mode, the check is ok."""
    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('a', gen_random_uuid())")
    assert doctor()["strict mode"]["state"] == "ok"

    psql.execute("INSERT INTO scoring.profiles (name, owner_id) VALUES ('b', gen_random_uuid())")
    told = doctor()["strict mode"]
    gristmill("security", "new-key")
    gristmill("security", "strict", "on")

    assert (told["state"], told["found"].partition(":")[0]) == ("warning", "off, with 2 owners")
    assert doctor()["strict mode"]["state"] == "ok"


def test_a_refused_schedule_is_named_with_its_reason(gristmill, doctor, psql):
    """Its row says that it is enabled. Paused schedules are not checked."""
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
