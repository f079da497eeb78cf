"""Who answers the calls of a process, without any secret: what workers report and people compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.llm.routing.routing import DEFAULT_OF, OFFLINE, Route, Routing
from workers.runtime.handler.errors import one_line
from workers.runtime.refusals import quoted

UNREADABLE = "(an address that cannot be read)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Which provider, where, asked for which models, by whose choice; ``problem`` is why it cannot be asked.

    That is what answers where nothing else is bound. ``routes`` tells what operators have set beside it: each route
    with its steps, and for what it is taken.
    """

    provider: str
    url: str | None = None
    model: str | None = None
    embedding_model: str | None = None
    has_key: bool = False
    chosen_by: str = "environment"
    problem: str | None = None
    routes: list[str] | None = None


def answering(routing: Routing) -> Answering:
    """Return who answers by this routing. Pure."""
    chat, embeddings = routing.routes[DEFAULT_OF["chat"]], routing.routes[DEFAULT_OF["embeddings"]]
    routes = [
        _describe_route(routing, one) for _, one in sorted(routing.routes.items()) if one.origin == "table"
    ] or None
    if (broken := routing.problem_of(chat)) is not None:
        return Answering(provider="none", chosen_by="routes", problem=broken, routes=routes)
    step = chat.steps[0]
    provider = routing.provider_of(step)
    chosen_by = "routes" if chat.origin == "table" else chat.origin
    if provider.is_offline:
        return Answering(provider=OFFLINE, chosen_by=chosen_by, problem=provider.problem, routes=routes)
    return Answering(
        provider=provider.kind,
        url=(provider.server or UNREADABLE) if provider.base_url else None,
        model=step.model,
        embedding_model=embeddings.steps[0].model if embeddings.steps else None,
        has_key=bool(provider.api_key),
        chosen_by=chosen_by,
        problem=provider.problem,
        routes=routes,
    )


def report_of(provider: object) -> Mapping[str, Any]:
    """Return what a worker reported, as its row has it; one that is no object is a report with a problem."""
    if provider is None or isinstance(provider, Mapping):
        return provider or {}
    return {"problem": f"a worker's report of its provider must be an object, got {quoted(provider)}"}


def describe_report(provider: object) -> str:
    """Return in a few words what a worker reported; nothing where it has not."""
    report = report_of(provider)
    words = " ".join(str(report[part]) for part in ("provider", "url", "model") if report.get(part))
    problem = report.get("problem")
    return one_line(": ".join(str(part) for part in (words, problem) if part))


def _describe_route(routing: Routing, route: Route) -> str:
    """Return in a few words which way a route goes, and for whom."""
    steps = ", then ".join(f"{one.provider} {one.model}" for one in route.steps) or "nobody"
    bound = [
        " ".join(part for part in (stage, project_id and f"project {project_id}") if part) or "all"
        for (_, stage, project_id), name in routing.bindings.items()
        if name == route.name
    ]
    return f"{route.name} ({route.serves}): {steps}" + (f"; for {', '.join(sorted(bound))}" if bound else "")
