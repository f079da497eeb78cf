"""The names a server says it serves and the sizes of their contexts, asked for at most once in five minutes."""

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any

import httpx2
import openai

from workers.llm.errors import classify
from workers.llm.wire import whole_number

KEPT_SECONDS = 300.0
# Many compatible servers have no such list, or do not show it; the call itself will tell.
NO_LIST = frozenset({403, 404, 405, 501})
# How servers name the size of a model's context: vLLM, OpenRouter, Groq, LM Studio; llama.cpp within ``meta``.
_CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "loaded_context_length", "n_ctx")


class ModelList:
    """A server's ``/models``, cached. Everyone who asks meanwhile waits for the same request."""

    def __init__(self, client: openai.AsyncOpenAI, *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._contexts: Mapping[str, int | None] | None = None
        self._fresh_until = 0.0
        self._request: asyncio.Task[Mapping[str, int | None]] | None = None

    def context_of(self, model: str) -> int | None:
        """Return how many tokens question and answer may have together, if the list that was read last tells it."""
        return (self._contexts or {}).get(model)

    async def known(self) -> Collection[str]:
        """Return the listed names, none where the server gives no list; raise the kernel's error if it fails."""
        if self._contexts is not None and asyncio.get_running_loop().time() < self._fresh_until:
            return self._contexts.keys()
        if self._request is None:
            self._request = asyncio.create_task(self._ask())
            self._request.add_done_callback(self._keep)
        # Shielded: one cancelled job must not take the list from all who wait for it.
        return (await asyncio.shield(self._request)).keys()

    def _keep(self, request: asyncio.Task[Mapping[str, int | None]]) -> None:
        self._request = None
        if not request.cancelled() and request.exception() is None:
            self._contexts = request.result()
            self._fresh_until = asyncio.get_running_loop().time() + KEPT_SECONDS

    async def _ask(self) -> Mapping[str, int | None]:
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.get("/models", cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            if error.status_code in NO_LIST:
                return {}
            raise classify(error) from error
        except (openai.OpenAIError, TimeoutError) as error:
            raise classify(error) from error
        return _contexts_in(response.text)


def _contexts_in(body: str) -> Mapping[str, int | None]:
    try:
        listed = json.loads(body, parse_int=whole_number)
    except (ValueError, RecursionError):
        return {}
    models = listed.get("data") if isinstance(listed, Mapping) else None
    objects = [model for model in models if isinstance(model, Mapping)] if isinstance(models, list) else []
    return {name: _context_in(model) for model in objects if isinstance(name := model.get("id"), str)}


def _context_in(model: Mapping[str, Any]) -> int | None:
    meta = model.get("meta")
    places = [model, meta] if isinstance(meta, Mapping) else [model]
    sizes = (place.get(name) for place in places for name in _CONTEXT_NAMES)
    return next((size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size > 0), None)
