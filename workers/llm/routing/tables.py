"""Read providers, routes, bindings and the pauses of providers: one statement, all of one moment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.llm.pause_store import MAX_PAUSES, STALE
from workers.llm.pauses import Away
from workers.llm.routing.routing import Bound, Provider, Route, Step
from workers.llm.routing.virtual import URL_OF
from workers.runtime.refusals import Refusal

# Routes with their steps, and what is bound to them.
ROUTES = """
           (SELECT coalesce(json_agg(json_build_object('name', r.name, 'serves', r.serves, 'steps',
                      (SELECT coalesce(json_agg(to_json(s) ORDER BY s.position), '[]')
                         FROM llm.route_steps AS s WHERE s.route = r.name)) ORDER BY r.name), '[]')
              FROM llm.routes AS r) AS routes,
           (SELECT coalesce(json_agg(to_json(b) ORDER BY b.id), '[]') FROM llm.route_bindings AS b) AS bindings"""
_READ = text(f"""
    SELECT (SELECT coalesce(json_agg(to_json(p) ORDER BY p.name), '[]') FROM llm.providers AS p) AS providers,
{ROUTES},
           (SELECT coalesce(json_agg(json_build_object('provider', provider, 'since', since, 'reason', reason,
                      'wait', greatest(extract(epoch FROM until - now()), 0)::float8)), '[]')
              FROM (SELECT * FROM runtime.provider_pauses WHERE until > now() - make_interval(secs => :stale)
                     ORDER BY until DESC LIMIT :most) AS p) AS pauses""")  # noqa: S608 - a constant

# Returns the secret of a token, or raises a Refusal: the keyring of operations.
Decrypt = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Rows:
    """What the tables say. ``pauses`` are by what is paused: a server, a model of one, a key."""

    providers: Sequence[Provider] = ()
    routes: Sequence[Route] = ()
    bindings: Mapping[Bound, str] = field(default_factory=dict)
    pauses: Mapping[str, Away] = field(default_factory=dict)


async def read(session: AsyncSession, *, decrypt: Decrypt) -> Rows:
    """Return what the tables say now. A key that cannot be decrypted is its provider's problem."""
    row = (await session.execute(_READ, {"stale": STALE.total_seconds(), "most": MAX_PAUSES})).one()
    return Rows(
        providers=[_provider(one, decrypt) for one in row.providers],
        routes=routes_of(row.routes),
        bindings=bindings_of(row.bindings),
        pauses={
            one["provider"]: Away(datetime.fromisoformat(one["since"]), timedelta(seconds=one["wait"]), one["reason"])
            for one in row.pauses
        },
    )


def routes_of(rows: Sequence[Mapping[str, Any]]) -> list[Route]:
    """Return the routes that :data:`ROUTES` has read."""
    return [Route(name=one["name"], serves=one["serves"], steps=tuple(map(_step, one["steps"]))) for one in rows]


def bindings_of(rows: Sequence[Mapping[str, Any]]) -> dict[Bound, str]:
    """Return the bindings that :data:`ROUTES` has read."""
    return {
        (one["serves"], one["stage"], UUID(one["project_id"]) if one["project_id"] else None): one["route"]
        for one in rows
    }


def _provider(row: Mapping[str, Any], decrypt: Decrypt) -> Provider:
    key, problem = None, None
    if row["api_key"] is not None:
        try:
            key = decrypt(row["api_key"])
        except Refusal as error:
            problem = f"key of provider {row['name']}: {error}"
    return Provider(
        name=row["name"],
        kind=row["kind"],
        base_url=row["base_url"] or URL_OF.get(row["kind"]),
        api_key=key,
        problem=problem,
        paused_at=datetime.fromisoformat(row["paused_at"]) if row["paused_at"] else None,
        paused_reason=row["paused_reason"],
    )


def _step(row: Mapping[str, Any]) -> Step:
    return Step(
        provider=row["provider"],
        model=row["model"],
        max_tokens=row["max_tokens"],
        context_tokens=row["context_tokens"],
        document_prefix=row["document_prefix"],
        query_prefix=row["query_prefix"],
    )
