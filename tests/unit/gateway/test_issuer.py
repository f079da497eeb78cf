"""The keys of a token issuer: which are taken, when they are fetched again, and what happens when it is away."""

import base64
import json

import httpx2
import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.callers import issuer
from gateway.callers.issuer import IssuerKeys, read_key_set
from workers.runtime.refusals import UnavailableServer

URL = "https://issuer.test/jwks"


# A key of RSA with 1024 bits.
SHORT = {"kty": "RSA", "kid": "short", "e": "AQAB", "n": base64.urlsafe_b64encode(b"\xc1" * 128).decode().rstrip("=")}


def key_set(*keys) -> bytes:
    return json.dumps({"keys": [key if isinstance(key, dict) else key.as_dict(private=False) for key in keys]}).encode()


def ec(kid: str | None = None, use: str = "sig") -> ECKey:
    return ECKey.generate_key("P-256", {"use": use, "kid": kid} if kid else {"use": use})


class Issuer:
    """An issuer behind a transport: what it answers, and how often it was asked."""

    def __init__(self, *keys) -> None:
        self.body, self.status, self.asked, self.now = key_set(*keys), 200, 0, 1_000.0
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        self.keys = IssuerKeys(URL, client, clock=lambda: self.now)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        if self.status == 0:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(self.status, content=self.body, headers={"Location": "https://elsewhere.test/"})


async def test_keys_are_fetched_once_and_kept():
    """A request per token would make the issuer a part of every request."""
    one = Issuer(ec("a"), ec("b"))

    assert [(await one.keys.find(kid)) is not None for kid in ("a", "b", "a")] == [True, True, True]
    assert one.asked == 1


async def test_a_rotated_key_is_found_at_once():
    """An unknown id makes us ask again."""
    one = Issuer(ec("a"))
    await one.keys.find("a")
    one.now += issuer.MIN_FETCH_SECONDS
    one.body = key_set(ec("a"), ec("b"))

    assert await one.keys.find("b") is not None
    assert one.asked == 2


async def test_invented_key_ids_do_not_flood_the_issuer():
    """It is asked again only after a while, for all of them together."""
    one = Issuer(ec("a"))

    assert [await one.keys.find(f"invented-{n}") for n in range(100)] == [None] * 100
    assert one.asked == 1


async def test_a_key_that_the_issuer_withdraws_is_forgotten():
    """After the keys' age, without an unknown id."""
    one = Issuer(ec("a"), ec("b"))
    await one.keys.find("a")
    one.body = key_set(ec("b"))
    one.now += issuer.MAX_AGE_SECONDS

    assert await one.keys.find("a") is None


@pytest.mark.parametrize("status", [0, 302, 404, 500])
async def test_an_issuer_that_is_away_is_no_outage_of_ours_at_once(status):
    """Its last keys are used for an hour; then no token can be verified."""
    one = Issuer(ec("a"))
    await one.keys.find("a")
    one.status = status

    one.now += issuer.MAX_STALE_SECONDS - 1
    assert await one.keys.find("a") is not None
    one.now += 1 + issuer.MIN_FETCH_SECONDS
    with pytest.raises(UnavailableServer, match="keys of the token issuer cannot be fetched"):
        await one.keys.find("a")


async def test_an_issuer_that_was_never_reached_is_asked_again_later():
    """503 in the meantime, and not a request for each token."""
    one = Issuer(ec("a"))
    one.status = 0
    for _ in range(5):
        with pytest.raises(UnavailableServer):
            await one.keys.find("a")
    assert one.asked == 1

    one.status = 200
    one.now += issuer.MIN_FETCH_SECONDS

    assert await one.keys.find("a") is not None


async def test_an_endless_answer_is_cut():
    """No more than a quarter of a megabyte is read."""
    one = Issuer(ec("a"))
    one.body = b'{"keys": [' + b" " * issuer.MAX_BYTES

    with pytest.raises(UnavailableServer):
        await one.keys.find("a")


async def test_a_token_without_a_key_id_needs_an_only_key():
    """With two keys it would have to be guessed."""
    assert await Issuer(ec()).keys.find(None) is not None
    assert await Issuer(ec("a"), ec("b")).keys.find(None) is None


def test_only_public_keys_for_signatures_are_taken():
    """No shared secret, no key for encryption, no short key of RSA, nothing unreadable."""
    taken = read_key_set(
        key_set(
            ec("ec"),
            OKPKey.generate_key("Ed25519", {"kid": "ed"}),
            RSAKey.generate_key(2048, {"kid": "rsa"}),
            SHORT,
            OctKey.generate_key(256, {"kid": "secret"}).as_dict(private=True),
            ec("enc", use="enc"),
            {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": 5},
            {"kty": "AKP", "kid": "newer"},
            {"kid": ["a"], "kty": "RSA"},
        )
    )

    assert set(taken) == {"ec", "ed", "rsa"}


def test_private_members_of_a_published_key_are_not_kept():
    """Such an issuer is broken; we at least do not hold its secret."""
    published = ECKey.generate_key("P-256", {"kid": "a"}).as_dict(private=True)

    assert not read_key_set(json.dumps({"keys": [published]}).encode())["a"].is_private


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff", b"[" * 100_000, b'{"keys": [null, 1, "a"]}']
)
def test_what_is_no_key_set_is_refused(body):
    """As ValueError, which the caller logs."""
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are json's or ours
        read_key_set(body)
