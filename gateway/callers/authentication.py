"""Find who sends a request: the owner of an API key, or the user of a token."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx2
import structlog
from fastapi import Request

from gateway.callers.caller import Caller
from gateway.callers.fresh import FreshLookup
from gateway.callers.issuer import FETCH_SECONDS, IssuerKeys
from gateway.callers.keys import ApiKeys
from gateway.callers.tokens import InvalidToken, Issuer, Tokens
from gateway.problems import Unauthenticated
from workers.runtime.actor_signature import sign_actor
from workers.runtime.api_keys import OPERATOR_SCOPES, PREFIX, is_api_key
from workers.runtime.database import Database
from workers.runtime.store.api_keys import FoundKey, read_user_roles

log = structlog.get_logger(__name__)

SERVICE, OPERATOR = "gristmill_service", "gristmill_operator"
# A token of an issuer with many groups has 2 to 4 kB.
MAX_HEADER_CHARACTERS = 8_192
# How long a signature of a token's user is valid: longer than any transaction of a request.
SIGNATURE_SPAN = timedelta(minutes=10)
# RFC 6750: one scheme, blanks, one token. Everything else in the header, a line break too, is refused.
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.IGNORECASE | re.ASCII)
_USER_SCOPES = frozenset({"jobs:read", "jobs:write", "scoring", "operations", "assessments", "callbacks"})
# What a token allows, by the role of its user in operations.profiles. A token never makes an operator.
SCOPES_OF_ROLES = {"USER": _USER_SCOPES, "MANAGER": _USER_SCOPES, "ADMIN": _USER_SCOPES}
_INVALID = "the key or token is not valid"


class HeaderAuthenticator:
    """The callers of one gateway process, by the header ``Authorization``."""

    def __init__(self, database: Database, *, tokens: Tokens | None = None, actor_key: bytes | None = None) -> None:
        self._database, self._tokens, self._actor_key = database, tokens, actor_key
        self._keys = ApiKeys(database)
        self._roles: FreshLookup[UUID, str] = FreshLookup(self._ask_roles)

    async def authenticate(self, header: str | None) -> Caller:
        """Return the caller that ``header`` names; raise Unauthenticated if it names none.

        Unknown, expired and revoked keys are refused alike, and so are all wrong tokens. A revoked key is refused
        within a second.
        """
        if header is None:
            raise Unauthenticated
        found = _BEARER.fullmatch(header) if len(header) <= MAX_HEADER_CHARACTERS else None
        if found is None:
            raise Unauthenticated("Authorization must be `Bearer`, a blank, and one API key or token")
        credential = found.group(1)
        if credential.startswith(PREFIX):
            return await self._caller_of_key(credential)
        return await self._caller_of_token(credential)

    async def signature_of(self, caller: Caller) -> str:
        """Return what proves the caller's user to the database in strict mode; "" if it needs no proof or has none.

        Raise Unauthenticated if the key of ``caller`` is no longer valid: so a long request ends when its key does.
        """
        if caller.key_id is not None:
            found = await self._keys.find_again(caller.key_id)
            if found is None:
                raise Unauthenticated(_INVALID)
            return found.signature or ""
        if caller.user_id is None or self._actor_key is None:
            return ""
        return sign_actor(self._actor_key, caller.user_id, expires=datetime.now(UTC) + SIGNATURE_SPAN)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HeaderAuthenticator"]:
        """Write when keys are used while the block runs."""
        task = asyncio.create_task(self._keys.note_use())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._roles.close()
            await self._keys.close()

    async def _caller_of_key(self, secret: str) -> Caller:
        if not is_api_key(secret):
            raise Unauthenticated("the API key is not complete or has a wrong character; copy it again")
        found = await self._keys.find(secret)
        if found is None:
            raise Unauthenticated(_INVALID)
        return caller_of(found)

    async def _caller_of_token(self, token: str) -> Caller:
        if self._tokens is None:
            raise Unauthenticated(_INVALID)
        try:
            user_id = await self._tokens.user_of(token)
        except InvalidToken as error:
            log.info("token_refused", reason=str(error)[:200])
            raise Unauthenticated(_INVALID) from None
        role = await self._roles.get(user_id)
        if role is None:
            log.info("token_refused", reason="the user does not exist")
            raise Unauthenticated(_INVALID)
        scopes = SCOPES_OF_ROLES.get(role, frozenset())
        return Caller(name=f"user:{user_id}", user_id=user_id, scopes=scopes, role=SERVICE, key_id=None)

    async def _ask_roles(self, user_ids: Sequence[UUID]) -> dict[UUID, str]:
        async with self._database.kernel() as conn:
            return await read_user_roles(conn, user_ids)


def authorization_of(request: Request) -> str | None:
    """Return the header ``Authorization``; raise Unauthenticated if it was sent more than once.

    Otherwise a proxy could check one of them, and the gateway use the other.
    """
    sent = request.headers.getlist("authorization")
    if len(sent) > 1:
        raise Unauthenticated("Authorization must be sent once")
    return sent[0] if sent else None


def caller_of(key: FoundKey) -> Caller:
    """Return the caller that has this key."""
    role = OPERATOR if key.scopes.intersection(OPERATOR_SCOPES) else SERVICE
    return Caller(name=f"key:{key.name}", user_id=key.acts_for, scopes=key.scopes, role=role, key_id=key.id)


@asynccontextmanager
async def open_authenticator(
    database: Database, *, issuer: Issuer | None = None, actor_key: bytes | None = None
) -> AsyncIterator[HeaderAuthenticator]:
    """Yield the authenticator of a gateway process.

    Tokens are accepted only of ``issuer``. In strict mode their users need ``actor_key``, a key of
    ``gristmill security new-key``; users of API keys do not.
    """
    async with AsyncExitStack() as stack:
        tokens = None
        if issuer is not None:
            client = await stack.enter_async_context(
                # From the environment it takes certificates (SSL_CERT_FILE), and neither proxies nor ~/.netrc.
                httpx2.AsyncClient(
                    verify=httpx2.create_ssl_context(), timeout=FETCH_SECONDS, follow_redirects=False, trust_env=False
                )
            )
            tokens = Tokens(issuer, IssuerKeys(issuer.jwks_url, client))
        authenticator = HeaderAuthenticator(database, tokens=tokens, actor_key=actor_key)
        yield await stack.enter_async_context(authenticator.running())
