"""The names a server says it serves, asked for at most once in five minutes."""

import asyncio
import json
from collections.abc import Mapping

import httpx2
import openai

from workers.llm.errors import classify
from workers.llm.wire import whole_number

KEPT_SECONDS = 300.0
# Many compatible servers have no such list, or do not show it; the call itself will tell.
NO_LIST = frozenset({403, 404, 405, 501})


class ModelList:
    """A server's ``/models``, cached. Everyone who asks meanwhile waits for the same request."""

    def __init__(self, client: openai.AsyncOpenAI, *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._names: frozenset[str] | None = None
        self._fresh_until = 0.0
        self._request: asyncio.Task[frozenset[str]] | None = None

    async def known(self) -> frozenset[str]:
        """Return the listed names, none where the server gives no list; raise the kernel's error if it fails."""
        if self._names is not None and asyncio.get_running_loop().time() < self._fresh_until:
            return self._names
        if self._request is None:
            self._request = asyncio.create_task(self._ask())
            self._request.add_done_callback(self._keep)
        # Shielded: one cancelled job must not take the list from all who wait for it.
        return await asyncio.shield(self._request)

    def _keep(self, request: asyncio.Task[frozenset[str]]) -> None:
        self._request = None
        if not request.cancelled() and request.exception() is None:
            self._names = request.result()
            self._fresh_until = asyncio.get_running_loop().time() + KEPT_SECONDS

    async def _ask(self) -> frozenset[str]:
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.get("/models", cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            if error.status_code in NO_LIST:
                return frozenset()
            raise classify(error) from error
        except (openai.OpenAIError, TimeoutError) as error:
            raise classify(error) from error
        return _names_in(response.text)


def _names_in(body: str) -> frozenset[str]:
    try:
        listed = json.loads(body, parse_int=whole_number)
    except (ValueError, RecursionError):
        return frozenset()
    models = listed.get("data") if isinstance(listed, Mapping) else None
    ids = (model.get("id") for model in models or () if isinstance(model, Mapping)) if isinstance(models, list) else ()
    return frozenset(name for name in ids if isinstance(name, str))
