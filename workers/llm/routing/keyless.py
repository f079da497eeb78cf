"""The providers and routes as a process reads them that may read no key and has no environment of a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from workers.llm.answering import report_of
from workers.llm.routing.routing import OFFLINE, Provider, Routing
from workers.llm.routing.tables import ROUTES, bindings_of, routes_of
from workers.llm.routing.virtual import ENVIRONMENT, SETTINGS, URL_OF, Environment, merged
from workers.runtime.database import Raw

_READ = f"""
    SELECT (SELECT coalesce(json_agg(json_build_object('name', name, 'kind', kind, 'base_url', base_url, 'paused_at',
                      paused_at, 'paused_reason', paused_reason, 'updated_at', updated_at)), '[]')
              FROM llm.providers) AS providers,
{ROUTES},
           (SELECT to_json(c) FROM llm.chosen_provider() AS c) AS chosen,
           (SELECT coalesce(json_agg(json_build_object('report', w.provider, 'since', w.started_at)), '[]')
              FROM runtime.workers AS w
             WHERE w.provider IS NOT NULL AND w.heartbeat_at
                   > now() - make_interval(secs => greatest(least(w.lease_seconds, 86400), 0))) AS workers"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What the system settings choose; a :class:`workers.llm.routing.virtual.Choice` without a key."""

    provider: str | None
    base_url: str | None
    llm_model: str | None
    embedding_model: str | None
    api_key: None = None
    problem: None = None


async def read_keyless(conn: Raw) -> Routing:
    """Return the providers and routes of now. No provider has a key, and each says when its key was changed last.

    What the environment of the workers says is taken from their reports. If they differ, or if no worker reports it,
    the provider ``environment`` is offline here: nothing is known of its limits.
    """
    cursor = await conn.execute(_READ)
    row = await cursor.fetchone()
    assert row is not None
    providers, routes, bindings, chosen, workers = row
    environment, since = environment_of(workers)
    routing = merged(
        environment,
        _choice(chosen or {}),
        providers=[_provider(one) for one in providers],
        routes=routes_of(routes),
        bindings=bindings_of(bindings),
    )
    changed = {ENVIRONMENT: since, SETTINGS: _time((chosen or {}).get("key_changed_at"))}
    own = {
        name: replace(routing.providers[name], key_changed_at=at)
        for name, at in changed.items()
        if name in routing.providers
    }
    return replace(routing, providers={**routing.providers, **own})


def environment_of(workers: Sequence[Mapping[str, Any]]) -> tuple[Environment, datetime | None]:
    """Return what the environment of these workers says, and since when the first of them runs with it. Pure.

    Each has a ``report`` and ``since``. Without one report, or with two that differ, it is offline.
    """
    found = [
        (_environment(report), _time(one["since"]))
        for one in workers
        if (report := report_of(one["report"])).get("chosen_by") == ENVIRONMENT
    ]
    said = {environment for environment, _ in found}
    if len(said) != 1:
        return Environment(), None
    return said.pop(), min((since for _, since in found if since is not None), default=None)


def _environment(report: Mapping[str, Any]) -> Environment:
    url = None if report.get("provider") == OFFLINE else _text(report, "url")
    return Environment(base_url=url, model=_text(report, "model"), embedding_model=_text(report, "embedding_model"))


def _provider(row: Mapping[str, Any]) -> Provider:
    return Provider(
        name=row["name"],
        kind=row["kind"],
        base_url=row["base_url"] or URL_OF.get(row["kind"]),
        paused_at=_time(row["paused_at"]),
        paused_reason=row["paused_reason"],
        key_changed_at=_time(row["updated_at"]),
    )


def _choice(row: Mapping[str, Any]) -> _Choice | None:
    names = ("provider", "base_url", "llm_model", "embedding_model")
    found = {name: row.get(name) for name in names}
    if found["provider"] is None and not (found["llm_model"] or found["embedding_model"]):
        return None
    return _Choice(**found)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _text(report: Mapping[str, Any], name: str) -> str | None:
    value = report.get(name)
    return value if isinstance(value, str) and value else None
