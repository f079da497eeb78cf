"""The keys of a token issuer: fetched from its JWKS address, kept for minutes, renewed when it rotates them."""

import asyncio
import json
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import structlog
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from workers.runtime.refusals import UnavailableServer

log = structlog.get_logger(__name__)

PublicKey = RSAKey | ECKey | OKPKey

MAX_AGE_SECONDS = 300.0
# If the issuer does not answer, its last keys are used for this long.
MAX_STALE_SECONDS = 3_600.0
# An unknown key id makes us fetch the keys, at most this often: a caller can invent any number of them.
MIN_FETCH_SECONDS = 10.0
FETCH_SECONDS = 5.0
MAX_BYTES = 262_144
MAX_KEYS = 100
_MIN_RSA_BITS = 2_048


class IssuerKeys:
    """The public keys at ``url`` by their ids. A key for encryption and a shared secret are never among them."""

    def __init__(self, url: str, client: httpx2.AsyncClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._client, self._clock = url, client, clock
        self._keys: dict[str | None, PublicKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None) -> PublicKey | None:
        """Return the key with this id, or the only key if ``kid`` is None; None if there is no such key.

        Raise UnavailableServer if the keys cannot be fetched and the last ones are too old.
        """
        await self._renew_if(lambda: self._age() >= MAX_AGE_SECONDS)
        found = self._get(kid)
        if found is None:
            await self._renew_if(lambda: self._get(kid) is None)
            found = self._get(kid)
        if self._age() >= MAX_STALE_SECONDS:
            raise UnavailableServer("the keys of the token issuer cannot be fetched")
        return found

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _get(self, kid: str | None) -> PublicKey | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _renew_if(self, needed: Callable[[], bool]) -> None:
        """Fetch the keys if ``needed`` and not tried just now. All who need them wait for one request."""
        if not needed():
            return
        async with self._fetching:
            now = self._clock()
            if not needed() or (self._tried_at is not None and now - self._tried_at < MIN_FETCH_SECONDS):
                return
            self._tried_at = now
            try:
                self._keys = await self._fetch()
                self._fetched_at = now
            except (httpx2.HTTPError, TimeoutError, ValueError) as error:
                log.warning("issuer_keys_not_fetched", url=self._url, error=f"{type(error).__name__}: {error}")

    async def _fetch(self) -> dict[str | None, PublicKey]:
        body = bytearray()
        async with (
            asyncio.timeout(FETCH_SECONDS),
            self._client.stream("GET", self._url, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise ValueError(f"the answer has status {answer.status_code}")
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError(f"the answer has more than {MAX_BYTES} bytes")
        return read_key_set(bytes(body))


def read_key_set(body: bytes) -> dict[str | None, PublicKey]:
    """Return the keys for signatures in a JWK Set by their ids; raise ValueError if it has none. Skip other keys."""
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"the answer must have a list `keys` of at most {MAX_KEYS}")
    keys = {entry.get("kid"): key for entry in entries if isinstance(entry, dict) and (key := _read_key(entry))}
    if not keys:
        raise ValueError("the answer has no key for signatures")
    return keys


def _read_key(entry: Mapping[str, Any]) -> PublicKey | None:
    if entry.get("kty") not in {"RSA", "EC", "OKP"} or entry.get("use", "sig") != "sig":
        return None
    if not isinstance(entry.get("kid"), str | None):
        return None
    try:
        # A set that publishes private members is broken; they are not kept.
        public = {name: value for name, value in entry.items() if name not in {"d", "p", "q", "dp", "dq", "qi", "oth"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # about a short key, which is refused below
            key = JWKRegistry.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAKey) and key.public_key.key_size < _MIN_RSA_BITS:
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None
