"""Users with the tokens of an issuer, which publishes its keys on a real server: what they may do, and strict mode."""

import json
import time
from uuid import uuid4

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from gateway.callers.tokens import Issuer
from tests.support.callers import add_user, bearer, client_of, open_app
from tests.support.fakes.web_server import web_server
from workers.runtime.actor_signature import new_key, pads
from workers.runtime.api_keys import allows

KEY = ECKey.generate_key("P-256", {"kid": "a"})
NAME, AUDIENCE = "https://issuer.test/", "gristmill"


@pytest.fixture
async def issuer():
    """The issuer, and the web server that publishes its keys."""
    async with web_server() as server:
        server.say("/jwks", json.dumps({"keys": [KEY.as_dict(private=False)]}).encode())
        yield Issuer(name=NAME, audience=AUDIENCE, jwks_url=server.url("/jwks")), server


def token_of(user, **claims) -> str:
    now = int(time.time())
    said = {"iss": NAME, "aud": AUDIENCE, "sub": str(user), "exp": now + 60} | claims
    return jwt.encode({"alg": "ES256", "kid": "a"}, said, KEY)


@pytest.fixture
async def client(gateway_url, issuer):
    """A client of an app that accepts tokens."""
    async with open_app(gateway_url, issuer=issuer[0]) as app, client_of(app) as client:
        yield client


INSERT = "INSERT INTO scoring.profiles (name) VALUES ('a')"
USER_SCOPES = ["assessments", "callbacks", "jobs:read", "jobs:write", "operations", "scoring"]


@pytest.mark.parametrize(
    ("role", "scopes"), [("PENDING", []), ("USER", USER_SCOPES), ("MANAGER", USER_SCOPES), ("ADMIN", USER_SCOPES)]
)
async def test_the_role_of_the_user_decides(client, psql, role, scopes):
    """Not the token, whatever it says; and no token makes an operator."""
    user = add_user(psql, "ada@example.test", role)

    answer = await client.get("/me", headers=bearer(token_of(user, scope="admin operate", role="gristmill_operator")))

    assert answer.json() == {
        "name": f"user:{user}",
        "user_id": str(user),
        "scopes": scopes,
        "role": "gristmill_service",
    }


async def test_a_user_whom_nobody_approved_reads_and_writes_nothing(client, psql):
    """PENDING is known, and may do nothing that needs a scope; the transaction only reads."""
    user = add_user(psql, "ada@example.test", "PENDING")

    answer = await client.post("/sql", content=INSERT, headers=bearer(token_of(user)))

    assert answer.status_code == 403
    assert not allows((await client.get("/me", headers=bearer(token_of(user)))).json()["scopes"], "jobs:read")


async def test_wrong_tokens_of_unknown_users_and_expired_ones_look_alike(client, psql):
    """One answer, without a reason."""
    user = add_user(psql, "ada@example.test")
    wrong = [token_of(uuid4()), token_of(user, exp=1), token_of(user, aud="other"), token_of("ada")]
    bad = [*wrong, token_of(user)[:-3] + "AAA"]

    answers = [await client.get("/me", headers=bearer(token)) for token in bad]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1


async def test_the_keys_are_fetched_once(client, issuer, psql):
    """Requests do not wait for the issuer."""
    user = add_user(psql, "ada@example.test")

    for _ in range(5):
        assert (await client.get("/me", headers=bearer(token_of(user)))).status_code == 200

    assert [seen.target for seen in issuer[1].seen] == ["/jwks"]


async def test_an_issuer_that_cannot_be_reached_is_503(client, issuer, psql):
    """The user's token may be right; a later try may succeed."""
    issuer[1].say("/jwks", b"", status=500)

    answer = await client.get("/me", headers=bearer(token_of(uuid4())))

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert str(issuer[1].port) not in answer.text


async def test_strict_mode_needs_the_gateways_key_for_users_of_tokens(gateway_url, issuer, psql):
    """The database cannot verify a token, so the process that can signs its user."""
    user, key = add_user(psql, "ada@example.test"), new_key()
    psql.execute("INSERT INTO runtime.actor_keys (inner_pad, outer_pad) VALUES (%s, %s)", list(pads(key)))
    psql.execute("INSERT INTO runtime.security (id, strict, changed_by) VALUES (1, true, 'test')")
    answers = []
    for actor_key in (None, new_key(), key):
        async with open_app(gateway_url, issuer=issuer[0], actor_key=actor_key) as app, client_of(app) as client:
            statement, headers = "SELECT id FROM operations.profiles", bearer(token_of(user))
            answers.append(await client.post("/sql", content=statement, headers=headers))

    assert [answer.status_code for answer in answers[:2]] == [answers[0].status_code] * 2
    assert answers[0].status_code >= 500
    assert "GRISTMILL_GATEWAY__ACTOR_KEY" in answers[0].text
    assert answers[2].json() == [[str(user)]]
