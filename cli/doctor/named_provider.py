"""One provider, asked on request: a short question and a short text to embed, of the models that routes ask there."""

import asyncio

from cli.doctor.check import Check
from cli.doctor.provider import OFFLINE, AskedServer, check_server
from workers.llm.names import OPENAI_EMBEDDING_MODEL, is_openai
from workers.llm.operate.providers import LIST, MADE_ELSEWHERE
from workers.llm.operate.refusals import require_known
from workers.llm.provider import PLACEHOLDER_KEY
from workers.llm.routing.routing import Provider, Routing


async def named_provider(routing: Routing, name: str) -> list[Check]:
    """Return what a provider answers now, whether it is paused or not; raise Unknown for a name that is none.

    These calls are a few tokens, under no limit and not in the ledger: they must show what is wrong with a provider
    also if it is paused, if a limit or a budget has no room, or if Postgres cannot write.
    """
    require_known("provider", name, routing.providers, remedy=LIST)
    one = routing.providers[name]
    if one.is_offline:
        return [Check("provider", "ok", OFFLINE)]
    if one.problem:
        return [Check("provider", "failed", one.problem, f"{_said_by(one)} changes it")]
    return await asyncio.to_thread(check_server, _asked(one, routing))


def _asked(one: Provider, routing: Routing) -> AskedServer:
    """Return what a provider is asked: the first model that a route asks there, of each kind."""
    models = {
        serves: [step.model for route in routing.routes.values() if route.serves == serves
                 for step in route.steps if step.provider == one.name and step.model]
        for serves in ("chat", "embeddings")
    }  # fmt: skip
    embeds = next(iter(models["embeddings"]), None)
    if embeds is None and is_openai(one.base_url or ""):
        embeds = OPENAI_EMBEDDING_MODEL
    return AskedServer(
        one.base_url or "",
        one.api_key or PLACEHOLDER_KEY,
        _said_by(one),
        _said_by(one),
        model=next(iter(models["chat"]), None),
        embedding_model=embeds,
        chats=bool(models["chat"]) or not models["embeddings"],
    )


def _said_by(one: Provider) -> str:
    """Return where a provider's address and key were said."""
    if one.name in MADE_ELSEWHERE:
        return "the environment" if one.origin == "environment" else "`gristmill settings`"
    return f"`gristmill llm providers set {one.name}`"
