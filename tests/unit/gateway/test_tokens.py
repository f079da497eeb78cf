"""Tokens: one good one is accepted, and each change of it is refused."""

import base64
import hmac
import json
import time
import warnings
from uuid import UUID

import httpx2
import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.callers.issuer import IssuerKeys
from gateway.callers.tokens import LEEWAY_SECONDS, InvalidToken, Issuer, Tokens

NOW = 1_900_000_000
USER = UUID("0198a5f2-7c1e-7000-8000-000000000001")
ISSUER = Issuer(name="https://issuer.test/", audience="gristmill", jwks_url="https://issuer.test/jwks")
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "alg": "RS256", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
RSA_OF_ANY_ALGORITHM = RSAKey.import_key(
    {name: value for name, value in RSA.as_dict(private=True).items() if name != "alg"}
)
FOREIGN = RSAKey.generate_key(2048, {"kid": "rsa"})
CLAIMS = {"iss": ISSUER.name, "aud": ISSUER.audience, "sub": str(USER), "exp": NOW + 300, "iat": NOW}


@pytest.fixture
def tokens() -> Tokens:
    published = json.dumps({"keys": [key.as_dict(private=False) for key in (RSA, EC, ED)]}).encode()
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, content=published)))
    return Tokens(ISSUER, IssuerKeys(ISSUER.jwks_url, client), clock=lambda: NOW)


def sign(claims=CLAIMS, key=RSA, alg="RS256", **header) -> str:
    kept = {"alg": alg, "kid": key.kid} | header
    kept = {name: value for name, value in kept.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a new name
        return jwt.encode(kept, claims, key, algorithms=[alg])


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(alg: str, signature: str = "") -> str:
    return f"{encoded({'alg': alg, 'kid': 'rsa'})}.{encoded(CLAIMS)}.{signature}"


def with_claims(**changes) -> str:
    return sign({name: value for name, value in (CLAIMS | changes).items() if value is not None})


def signed_with_public_key() -> str:
    """HS256 with the issuer's public key as the secret, in the form in which libraries hold it."""
    signed = unsigned("HS256").rpartition(".")[0]
    code = hmac.digest(RSA.as_pem(private=False), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(code).rstrip(b'=').decode()}"


def tampered() -> str:
    header, _, signature = sign().split(".")
    return f"{header}.{encoded(CLAIMS | {'sub': str(UUID(int=9))})}.{signature}"


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
async def test_a_good_token_names_its_user(tokens, key, alg):
    """Signed by any kind of key that the issuer publishes."""
    assert await tokens.user_of(sign(key=key, alg=alg)) == USER


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", "gristmill"]},
        {"exp": NOW - LEEWAY_SECONDS + 1},
        {"nbf": NOW + LEEWAY_SECONDS},
        {"iat": None},
        {"role": "admin", "email": "a@example.test"},
    ],
)
async def test_what_a_good_token_may_be_like(tokens, claims):
    """Several audiences, clocks that differ a little, more claims."""
    assert await tokens.user_of(with_claims(**claims)) == USER


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt"])
async def test_types_of_tokens(tokens, typ):
    """Access tokens of RFC 9068, too."""
    assert await tokens.user_of(sign(typ=typ)) == USER


BAD = {
    "no signature": lambda: unsigned("none"),
    "no signature, written otherwise": lambda: unsigned("NONE"),
    "no signature, but RS256": lambda: unsigned("RS256"),
    "a random signature": lambda: unsigned("RS256", "AAAA"),
    "HS256 with the public key": signed_with_public_key,
    "HS256 with an empty secret": lambda: unsigned("HS256", "AAAA"),
    "another key with the same id": lambda: sign(key=FOREIGN),
    "an unknown id": lambda: sign(kid="other"),
    "no id where there are several keys": lambda: sign(kid=None),
    "an id that is a path": lambda: sign(kid="../../dev/null"),
    "an id that is no text": lambda: f"{encoded({'alg': 'RS256', 'kid': 5})}.{encoded(CLAIMS)}.AAAA",
    "a key of the header": lambda: sign(key=FOREIGN, jwk=FOREIGN.as_dict(private=False)),
    "an address in the header": lambda: sign(key=FOREIGN, jku="https://evil.test/jwks"),
    "an algorithm that the key is not for": lambda: sign(key=RSA_OF_ANY_ALGORITHM, alg="PS256"),
    "a key of another kind": lambda: f"{encoded({'alg': 'RS256', 'kid': 'ec'})}.{encoded(CLAIMS)}.AAAA",
    "an unknown critical header": lambda: f"{encoded({'alg': 'RS256', 'kid': 'rsa', 'crit': ['x'], 'x': 1})}.e30.AA",
    "another type": lambda: sign(typ="dpop+jwt"),
    "other claims than were signed": tampered,
    "expired": lambda: with_claims(exp=NOW - LEEWAY_SECONDS),
    "not yet valid": lambda: with_claims(nbf=NOW + LEEWAY_SECONDS + 1),
    "issued in the future": lambda: with_claims(iat=NOW + LEEWAY_SECONDS + 1),
    "no expiry": lambda: with_claims(exp=None),
    "an expiry that is a text": lambda: with_claims(exp="2100-01-01"),
    "an endless expiry": lambda: with_claims(exp=float("inf")),
    "an expiry that is no number": lambda: with_claims(exp=float("nan")),
    "another issuer": lambda: with_claims(iss="https://evil.test/"),
    "the issuer without its slash": lambda: with_claims(iss="https://issuer.test"),
    "no issuer": lambda: with_claims(iss=None),
    "another audience": lambda: with_claims(aud="other"),
    "a part of the audience": lambda: with_claims(aud="grist"),
    "no audience": lambda: with_claims(aud=None),
    "an empty audience": lambda: with_claims(aud=[]),
    "no subject": lambda: with_claims(sub=None),
    "an empty subject": lambda: with_claims(sub=""),
    "a subject that is no id": lambda: with_claims(sub="admin"),
    "a subject in braces": lambda: with_claims(sub=f"{{{USER}}}"),
    "a subject that is a URN": lambda: with_claims(sub=f"urn:uuid:{USER}"),
    "a subject that is a number": lambda: with_claims(sub=5),
    "a subject that is a list": lambda: with_claims(sub=[str(USER)]),
    "claims that are no object": lambda: f"{sign().split('.')[0]}.{encoded([])}.AAAA",
    "five parts": lambda: sign() + ".a.b",
    "two parts": lambda: sign().rpartition(".")[0],
    "nothing": lambda: "",
    "only dots": lambda: "..",
    "a header that is no JSON": lambda: "AAAA.e30.AAAA",
    "a header that is no object": lambda: f"{encoded([1])}.e30.AAAA",
    "a header that is nested deeply": lambda: base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=") + ".e30.AA",
    "characters outside base64": lambda: sign().replace(".", ".!", 1),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_wrong_token_is_refused(tokens, case):
    """Always as InvalidToken, never as another error."""
    with pytest.raises(InvalidToken):
        await tokens.user_of(BAD[case]())


async def test_the_clock_of_this_machine_is_used():
    """Without a given clock, a token of today is valid."""
    published = json.dumps({"keys": [RSA.as_dict(private=False)]}).encode()
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, content=published)))
    now = int(time.time())

    found = await Tokens(ISSUER, IssuerKeys(ISSUER.jwks_url, client)).user_of(
        sign(CLAIMS | {"exp": now + 60, "iat": now})
    )

    assert found == USER
