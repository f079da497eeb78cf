"""API keys at the door: who is let in, as whom, and until when."""

import asyncio
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from gateway.callers.keys import ApiKeys
from gateway.problems import Unauthenticated
from gristmill_testing.waiting import until
from tests.support.callers import TESTER, add_user, bearer, make_key
from tests.support.paths import ROOT
from workers.runtime.api_keys import SCOPES, new_api_key
from workers.runtime.operate.api_keys import list_keys, revoke_key


async def revoke(database, name: str) -> None:
    async with database.kernel() as conn:
        await revoke_key(conn, name, TESTER)


async def test_a_key_of_a_user_acts_as_that_user(client, database, psql):
    """As a service, with exactly its scopes."""
    ada = add_user(psql, "ada@example.test")
    made = await make_key(database, "billing", "jobs:read", "jobs:write", acts_for=ada)

    answer = await client.get("/me", headers=bearer(made.secret))

    assert answer.json() == {
        "name": "key:billing",
        "user_id": str(ada),
        "scopes": ["jobs:read", "jobs:write"],
        "role": "gristmill_service",
    }


@pytest.mark.parametrize("scope", ["operate", "operate:read", "admin"])
async def test_a_key_of_an_operator_acts_for_nobody(client, database, scope):
    """In the database it is an operator."""
    made = await make_key(database, "ops", scope)

    answer = (await client.get("/me", headers=bearer(made.secret))).json()

    assert (answer["user_id"], answer["role"]) == (None, "gristmill_operator")


async def test_a_wrongly_copied_key_asks_no_database(client, monkeypatch, database):
    """Its checksum does not fit; the answer says that it is incomplete, and does not quote it."""
    made = await make_key(database, "ops", "operate")

    async def ask(*_: object) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(ApiKeys, "find", ask)
    wrong = made.secret[:-1] + ("a" if made.secret[-1] != "a" else "b")
    answer = await client.get("/me", headers=bearer(wrong))

    assert answer.status_code == 401
    assert "wrong character" in answer.json()["detail"]
    assert wrong[8:] not in answer.text


async def test_unknown_expired_and_revoked_keys_are_refused_alike(client, database, psql):
    """A client cannot find out whether a key ever existed."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    expired = await make_key(database, "expired", "operate", expires_at=tomorrow)
    psql.execute("ALTER TABLE runtime.api_keys DISABLE TRIGGER keep_api_key")
    psql.execute("UPDATE runtime.api_keys SET expires_at = now()")
    psql.execute("ALTER TABLE runtime.api_keys ENABLE TRIGGER keep_api_key")
    revoked = await make_key(database, "revoked", "operate")
    await revoke(database, "revoked")

    answers = [
        await client.get("/me", headers=bearer(secret)) for secret in (new_api_key(), expired.secret, revoked.secret)
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}


async def test_a_key_ends_with_its_user(client, database, psql):
    """Nobody acts for a user who does not exist; the row of the key remains."""
    made = await make_key(database, "billing", "jobs:read", acts_for=add_user(psql, "ada@example.test"))
    psql.execute("DELETE FROM auth.users")

    answer = await client.get("/me", headers=bearer(made.secret))

    assert answer.status_code == 401
    assert psql.execute("SELECT name FROM runtime.api_keys").fetchall() == [{"name": "billing"}]


PROBER = """
import asyncio, sys, time
from gateway.callers.authentication import open_authenticator
from gateway.problems import Unauthenticated
from workers.runtime.database import Database

async def main(url, header):
    database = Database(url, changed_by="gateway")
    async with open_authenticator(database) as authenticator:
        while True:
            began = time.time()
            try:
                await authenticator.authenticate(header)
                print(began, "accepted", flush=True)
            except Unauthenticated:
                print(began, "refused", flush=True)
            await asyncio.sleep(0.01)

asyncio.run(main(sys.argv[1], "Bearer " + sys.stdin.readline().strip()))
"""


async def test_a_revoked_key_is_refused_by_every_process_within_a_second(gateway_url, database):
    """No request that begins a second after the revocation is accepted, in any of two processes."""
    made = await make_key(database, "billing", "operate")
    probers = [
        subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [sys.executable, "-c", PROBER, gateway_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    try:
        for prober in probers:
            assert prober.stdin is not None
            prober.stdin.write(made.secret + "\n")
            prober.stdin.flush()
        outputs = [prober.stdout for prober in probers if prober.stdout is not None]
        seen = [[await asyncio.to_thread(output.readline)] for output in outputs]
        await revoke(database, "billing")
        revoked_at = time.time()
        for output, lines in zip(outputs, seen, strict=True):
            while sum("refused" in line for line in lines) < 150:
                lines.append(await asyncio.to_thread(output.readline))
    finally:
        for prober in probers:
            prober.kill()
            prober.communicate()

    for lines in seen:
        assert "accepted" in lines[0]
        accepted = [float(line.split()[0]) for line in lines if "accepted" in line]
        assert max(accepted) < revoked_at + 1.0
        first_refusal = next(n for n, line in enumerate(lines) if "refused" in line)
        assert not any("accepted" in line for line in lines[first_refusal:])


async def test_a_request_that_is_under_way_ends_with_its_key(app, client, database):
    """A stream or a long wait begins many transactions: after the revocation it begins no more."""
    made = await make_key(database, "watcher", "operate")
    authenticator = app.state.services.authenticator
    caller = await authenticator.authenticate(f"Bearer {made.secret}")
    await revoke(database, "watcher")

    async def refuses() -> bool:
        try:
            await authenticator.signature_of(caller)
        except Unauthenticated:
            return True
        return False

    await until(refuses)


async def test_the_use_of_keys_is_written_in_bulk_and_not_in_the_request(app, client, database, psql):
    """One statement for all keys, at most once a minute for each key."""
    keys = [await make_key(database, f"k{n}", "operate") for n in range(3)]
    for key in keys[:2]:
        for _ in range(3):
            await client.get("/me", headers=bearer(key.secret))
    used = "SELECT name, last_used_at IS NOT NULL AS used, xmin::text FROM runtime.api_keys ORDER BY name"
    assert not any(row["used"] for row in psql.execute(used))

    known = app.state.services.authenticator._keys
    await known.write_use()
    after = psql.execute(used).fetchall()
    await client.get("/me", headers=bearer(keys[0].secret))
    await known.write_use()

    assert [row["used"] for row in after] == [True, True, False]
    assert len({row["xmin"] for row in after[:2]}) == 1
    assert psql.execute(used).fetchall() == after


async def test_many_clients_with_unknown_keys_cause_few_statements(app, client, database, monkeypatch):
    """The door asks for all keys that wait in one statement, and remembers for a moment which are unknown."""
    lookup = app.state.services.authenticator._keys._lookup
    asked = []
    ask = lookup._ask

    async def count(hashes):
        asked.append(len(hashes))
        return await ask(hashes)

    monkeypatch.setattr(lookup, "_ask", count)
    secrets = [new_api_key() for _ in range(100)]

    answers = await asyncio.gather(*(client.get("/me", headers=bearer(secret)) for secret in secrets * 3))

    assert {answer.status_code for answer in answers} == {401}
    assert sum(asked) <= 300
    assert len(asked) < 20


async def test_no_answer_of_postgres_is_503_and_not_401(app, client, database, monkeypatch):
    """A client must not think that its key was revoked."""
    made = await make_key(database, "ops", "operate")

    await app.state.services.database.close()
    monkeypatch.setattr(app.state.services.authenticator._keys._database, "kernel", _away)
    answer = await client.get("/me", headers=bearer(made.secret))

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def _away():
    raise OSError("connection refused")


async def test_keys_are_listed_without_secrets(database, psql):
    """Neither the key nor its hash."""
    made = await make_key(database, "ops", *SCOPES)

    async with database.kernel() as conn:
        [listed] = await list_keys(conn)

    assert made.secret.startswith(listed.hint)
    assert made.secret[8:] not in repr(listed) + repr(made)
    assert listed.created_by == "tester"
    assert set(listed.scopes) == set(SCOPES)
    stored = json.dumps(psql.execute("SELECT * FROM runtime.api_keys").fetchone(), default=str)
    assert made.secret[8:] not in stored


HEADERS = [
    None,
    b"",
    b"Bearer",
    b"Bearer ",
    b"Basic Z206cGFzcw==",
    b"bearer\tgm_x",
    b"Bearer gm_x gm_y",
    b"Bearer gm_x, Bearer gm_y",
    b"Bearer gm_x\r\nX-Role: admin",
    b"Bearer gm_x\n",
    b"Bearer gm_\x00",
    b"Bearer \xff\xfe",
    b"Bearer " + b"a" * 8_200,
    b"Bearer ' OR true --",
    b"Bearer " + b"\xc7\xa7m_" + b"0" * 36,
]


@pytest.mark.parametrize("header", HEADERS)
async def test_whatever_is_sent_instead_of_a_key_is_401(app, header):
    """The application sees the bytes as they are: no server in front of it has filtered them."""
    sent: dict[str, Any] = {}

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.setdefault(message["type"], message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/me",
        "raw_path": b"/me", "query_string": b"", "root_path": "", "scheme": "http", "server": ("gateway", 80),
        "client": ("192.0.2.7", 1), "headers": [] if header is None else [(b"authorization", header)],
    }  # fmt: skip
    await app(scope, receive, send)

    assert sent["http.response.start"]["status"] == 401
    body = json.loads(sent["http.response.body"]["body"])
    assert "\n" not in body["detail"]
    assert "gm_x" not in body["detail"]
    assert (b"www-authenticate", b"Bearer") in sent["http.response.start"]["headers"]


async def test_two_authorization_headers_are_refused(client, database):
    """Otherwise a proxy could check one and the gateway use the other."""
    made = await make_key(database, "ops", "operate")
    value = f"Bearer {made.secret}"

    answer = await client.get("/me", headers=[("Authorization", value), ("Authorization", value)])

    assert answer.status_code == 401


async def test_a_token_is_refused_if_no_issuer_is_configured(client):
    """API keys only is the default."""
    answer = await client.get("/me", headers=bearer(f"e30.e30.{uuid4().hex}"))

    assert answer.status_code == 401
