"""Connections to one provider: a thousand at once without a pool's cost growing with each of them."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from workers.llm.bodies import received

# The client's pool looks at every one of its connections twice per request: with 1,000 in one pool a call cost
# 18 ms of CPU, in pools of 8 it costs 3.
PER_POOL = 8
IDLE_SECONDS = 30.0


class ManyPools(httpx2.AsyncBaseTransport):
    """A transport over several small pools; each request goes to the least busy, the first of equals.

    So few requests keep to few, warm connections. Answers are read whole, within bounds, before they are handed on.
    """

    def __init__(self, base_url: str, *, max_connections: int) -> None:
        whole, rest = divmod(max_connections, PER_POOL)
        tls, proxy = httpx2.create_ssl_context(), proxy_for(base_url)
        self._pools = [
            httpx2.AsyncHTTPTransport(
                verify=tls,
                proxy=proxy,
                limits=httpx2.Limits(
                    max_connections=size, max_keepalive_connections=size, keepalive_expiry=IDLE_SECONDS
                ),
            )
            for size in [PER_POOL] * whole + [rest] * bool(rest)
        ]
        self._busy = [0] * len(self._pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send ``request`` and return its answer with the body read."""
        index = self._busy.index(min(self._busy))
        self._busy[index] += 1
        try:
            return await received(await self._pools[index].handle_async_request(request))
        finally:
            self._busy[index] -= 1

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools:
            await pool.aclose()


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment's usual variables name for ``url``; own transports must look themselves."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
