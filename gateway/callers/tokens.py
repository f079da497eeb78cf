"""Verify the tokens (JWT) of one issuer. A token says only who somebody is; the database says what that user may do."""

import base64
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jws import JWSRegistry
from joserfc.jwt import JWTClaimsRegistry

from gateway.callers.issuer import IssuerKeys

# Signatures by a private key. Never `none`, and never a shared secret: a public key would serve as one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
# The clocks of two machines may differ by this much.
LEEWAY_SECONDS = 30
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_REGISTRY = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)


class InvalidToken(Exception):
    """The token is refused. The reason is for tests and logs, not for the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Whose tokens are accepted, and for whom they must be made."""

    name: str
    audience: str
    jwks_url: str


class Tokens:
    """Verifies the tokens of one issuer."""

    def __init__(self, issuer: Issuer, keys: IssuerKeys, *, clock: Callable[[], float] = time.time) -> None:
        self._keys, self._clock = keys, clock
        self._claims = JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer.name},
            aud={"essential": True, "value": issuer.audience},
            sub={"essential": True},
            exp={"essential": True},
        )

    async def user_of(self, token: str) -> UUID:
        """Return the user whom a valid token names; raise InvalidToken for every other token."""
        header = _header_of(token)
        key = await self._keys.find(_kid_of(header))
        if key is None:
            raise InvalidToken("no key of the issuer has this id")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # EdDSA got a new name; issuers use the old one
                # joserfc checks that the key is for this algorithm: its type, and its `alg` if it has one.
                claims = jwt.decode(token, key, algorithms=list(ALGORITHMS), registry=_REGISTRY).claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InvalidToken(f"{type(error).__name__}: {error}") from None
        if not math.isfinite(claims["exp"]):
            raise InvalidToken("exp must be a time")
        return _user_in(claims)


def _user_in(claims: dict[str, Any]) -> UUID:
    subject = claims["sub"]
    try:
        user = UUID(subject)
    except ValueError:
        raise InvalidToken("sub must be the id of a user") from None
    if str(user) != subject.lower():
        raise InvalidToken("sub must be the id of a user")  # UUID() also reads braces and urn:uuid:
    return user


def _header_of(token: str) -> dict[str, Any]:
    """Return the header of a token, before anything in it is believed."""
    try:
        encoded, _, _ = token.split(".")
    except ValueError:
        raise InvalidToken("a token has three parts") from None
    try:
        header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError):
        raise InvalidToken("the header cannot be read") from None
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS:
        raise InvalidToken("the algorithm is not accepted")
    if str(header.get("typ", "JWT")).lower() not in _TYPES:
        raise InvalidToken("it is another type of token")
    return header


def _kid_of(header: dict[str, Any]) -> str | None:
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise InvalidToken("kid must be a text")
    return kid
