"""Run one role with the proving stages registered: ``python -m tests.support.proving ROLE``.

A role is worker, dispatcher, beat, gateway, caller or decider.
Reads DATABASE_URL and REDIS_URL, and JSON options from the second argument: those of the role, ``model_url`` (the
provider of a worker's language model calls; without it every question is refused), ``admitted`` (the calls are
admitted and accounted for, as those of ``gristmill worker``), ``secret_key`` (of the keyring: a worker with it sends
callbacks, also to this machine), ``embeddings`` (``model`` and limits), ``log_repeats``
(log repeated warnings too) and the options of ``tests.support.proving.surroundings``.
"""

import json
import os
import sys
from typing import Any

from tests.support.proving.surroundings import arrange


def main() -> int:
    role, options = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    arrange(options)  # before any import that could keep the true clock
    return run(role, options)


def run(role: str, options: dict[str, Any]) -> int:
    """Run one role until it ends."""
    import logging
    from datetime import timedelta

    import tests.support.proving.assessors
    import tests.support.proving.stages  # noqa: F401 - importing registers the stages
    from config.logging import configure
    from config.schedules import DEFAULT_SCHEDULES
    from workers.runtime.handler.registry import discover

    configure("json")
    if options.pop("log_repeats", False):
        for handler in logging.getLogger().handlers:
            handler.filters.clear()
    registry = discover()
    urls: dict[str, Any] = {"database_url": os.environ["DATABASE_URL"], "redis_url": os.environ["REDIS_URL"]}
    if role == "worker":
        from workers.runtime.handler.resources import Resources
        from workers.transport.app import queue_names
        from workers.transport.worker import WorkerOptions, run_worker

        defaults: dict[str, Any] = {
            "queues": tuple(queue_names(registry)),
            "slots": 100,
            "heartbeat_seconds": 0.5,
            "lease_seconds": 3.0,
            "grace_seconds": 5.0,
            "transitions_retention": timedelta(days=400),
        }
        model_url, embeddings, admitted = (
            options.pop("model_url", None),
            options.pop("embeddings", {}),
            options.pop("admitted", False),
        )
        callbacks = sender_of_callbacks(options.pop("secret_key", None))
        worker = WorkerOptions(**urls, **{**defaults, **options})
        if admitted:
            model = admitted_model(model_url, worker.database_url, worker.worker_id)
        else:
            model = language_model(model_url, embeddings)
        return run_worker(registry, Resources(llm=model, **callbacks), worker)
    if role == "dispatcher":
        from workers.transport.dispatcher import run_dispatcher

        defaults = {"batch_size": 256, "poll_seconds": 0.2, "redispatch_seconds": 2.0}
        return run_dispatcher(registry, **urls, **{**defaults, **options})
    if role == "gateway":
        from tests.support.proving.gateway import serve

        return serve(options.pop("database_url", urls["database_url"]), urls["redis_url"], **options)
    if role == "caller":
        from tests.support.proving.caller import call

        return call(urls["database_url"], **options)
    if role == "decider":
        from tests.support.proving.decider import decide_for_ever

        return decide_for_ever(urls["database_url"], **options)
    from workers.transport.beat import run_beat

    return run_beat(registry, **urls, defaults=DEFAULT_SCHEDULES, transitions_retention=timedelta(days=400))


def sender_of_callbacks(secret_key: str | None) -> dict[str, Any]:
    """Return the resources with which a worker sends callbacks, also to this machine; none without a key."""
    if secret_key is None:
        return {}
    from tests.support.callbacks import LOOPBACK
    from workers.operations.keyring import Keyring
    from workers.outbound.http import SafeHttp

    return {"http": SafeHttp(allow=LOOPBACK), "keyring": Keyring([secret_key])}


def admitted_model(url: str, database_url: str, worker_id: Any) -> Any:
    """Return the model of ``gristmill worker`` for the provider at ``url``, with short timeouts."""
    from pydantic import SecretStr

    from cli.provider import worker_provider
    from config.settings import LLMSettings, Settings

    llm = LLMSettings(connect_timeout_seconds=2.0, timeout_seconds=4.0, max_connections=64)
    settings = Settings(openai_api_key=SecretStr("key"), openai_base_url=url, llm=llm)
    return worker_provider(settings, database_url=database_url, name="worker:provider", worker_id=worker_id).model


def language_model(url: str | None, embeddings: dict[str, Any]) -> Any:
    """Return the provider at ``url`` with short timeouts, or one that refuses every question.

    ``embeddings`` holds the embedding ``model`` and its limits.
    """
    if url is None:
        from tests.support.proving.llm import NoModel

        return NoModel()
    from workers.llm.provider import build
    from workers.runtime.handler.ports import EmbeddingLimits

    embedder = embeddings.pop("model", None)
    return build(
        api_key="key",
        base_url=url,
        model=None,
        connect_timeout=2.0,
        timeout=4.0,
        max_connections=64,
        embedding_model=embedder,
        embedding_limits=EmbeddingLimits(**embeddings),
    )


if __name__ == "__main__":
    sys.exit(main())
