"""Which providers there are, and by which path a call goes. One value, compared by value. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import blake2b
from typing import Literal
from uuid import UUID

from workers.llm.calls import Kind
from workers.llm.names import TABLE_DEFAULT, public_url
from workers.runtime.refusals import quoted

ROUTE_PREFIX = "route:"
# The route that calls take where nothing is bound to them.
DEFAULT_OF: Mapping[Kind, str] = {"chat": "default", "embeddings": "default-embeddings"}
OFFLINE = "offline"

Origin = Literal["table", "environment", "settings"]


class UnknownRouteError(LookupError):
    """A job names a route that does not exist, or that serves something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A server and its key, as a client needs them. ``problem`` says why it cannot be asked.

    While ``paused_at`` is set, nobody asks it, because operators said so. ``key_changed_at`` is set if this process may
    not know the key: pauses of the provider's key that began earlier may be those of another key.
    """

    name: str
    kind: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    origin: Origin = "table"
    problem: str | None = None
    paused_at: datetime | None = field(default=None, compare=False)
    paused_reason: str | None = field(default=None, compare=False)
    key_changed_at: datetime | None = field(default=None, compare=False)

    @property
    def is_offline(self) -> bool:
        """Whether it is the offline evaluator."""
        return self.kind == OFFLINE

    @property
    def server(self) -> str | None:
        """Its address as it may be shown, and by which its outages are known; None where it has none."""
        try:
            return public_url(self.base_url) if self.base_url else None
        except ValueError:
            return None

    @property
    def key_name(self) -> str:
        """What a pause of its key is called. Another key is not paused by it."""
        mark = blake2b((self.api_key or "").encode(), digest_size=4).hexdigest()
        return f"key {mark} of {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A provider and the model that is asked there. Without a ``model`` it is the one that the job names."""

    provider: str
    model: str | None
    max_tokens: int | None = None
    context_tokens: int | None = None
    document_prefix: str = ""
    query_prefix: str = ""

    @property
    def vectors(self) -> str:
        """Whose vectors documents get here: those of texts with another prefix are others.

        The prefix of queries is no part of it: their vectors are not stored, so another one makes no stored vector old.
        """
        return f"{self.model} ({self.document_prefix!r})" if self.document_prefix else str(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A fixed path: its steps are tried in their order, each at most once."""

    name: str
    serves: Kind
    steps: Sequence[Step]
    origin: Origin = "table"


# What is bound to a route: calls of one kind, of a stage and of a project; None: of any.
Bound = tuple[Kind, str | None, UUID | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The steps that one call may take, their models filled in."""

    route: Route
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """All providers, routes and bindings at one time."""

    providers: Mapping[str, Provider]
    routes: Mapping[str, Route]
    bindings: Mapping[Bound, str] = field(default_factory=dict)

    def provider_of(self, step: Step) -> Provider:
        """Return a step's provider."""
        return self.providers[step.provider]

    def route_of(self, serves: Kind, *, stage: str | None, project_id: UUID | None) -> Route:
        """Return the route that is bound most closely: by stage and project, by project, by stage, to all."""
        for closest in ((stage, project_id), (None, project_id), (stage, None), (None, None)):
            if (name := self.bindings.get((serves, *closest))) is not None:
                return self.routes[name]
        return self.routes[DEFAULT_OF[serves]]

    def known_names(self) -> list[str]:
        """Return the names of models that jobs are most likely to have: the tables' default name, and each route."""
        return [TABLE_DEFAULT, *(f"{ROUTE_PREFIX}{one.name}" for one in self.routes.values() if one.serves == "chat")]

    def bound_projects(self, serves: Kind, *, stage: str) -> list[UUID]:
        """Return the projects that have a binding of their own for calls of ``stage``."""
        return [
            project
            for kind, of_stage, project in self.bindings
            if kind == serves and project is not None and of_stage in {None, stage}
        ]

    def path(self, model: str, *, stage: str | None, project_id: UUID | None) -> Path:
        """Return the path of a question that is put to ``model``; raise UnknownRouteError.

        ``route:NAME`` and the tables' default name take the whole route. A job that names a model is asked of that
        model alone: by the steps that have it, or else of the route's first provider.
        """
        if model.startswith(ROUTE_PREFIX):
            route = self._named("chat", model.removeprefix(ROUTE_PREFIX))
        else:
            route = self.route_of("chat", stage=stage, project_id=project_id)
        if model.startswith(ROUTE_PREFIX) or model == TABLE_DEFAULT:
            return Path(route=route, steps=[replace(one, model=one.model or TABLE_DEFAULT) for one in route.steps])
        if route.origin != "table":  # its model stands in for the tables' default name only
            return Path(route=route, steps=[replace(one, model=model) for one in route.steps])
        having = [one for one in route.steps if one.model == model]
        return Path(route=route, steps=having or [Step(provider=one.provider, model=model) for one in route.steps[:1]])

    def embedding_path(self, *, stage: str | None, project_id: UUID | None) -> Path:
        """Return the path of texts that are embedded; a step without a model leaves it to its client."""
        route = self.route_of("embeddings", stage=stage, project_id=project_id)
        return Path(route=route, steps=route.steps)

    def problem_of(self, route: Route) -> str | None:
        """Return why a route cannot be taken, None where it can."""
        if not route.steps:
            return f"route {route.name!r} has no step; add one with `gristmill llm routes`"
        if len(route.steps) > 1 and any(self.provider_of(one).is_offline for one in route.steps):
            return f"route {route.name!r} mixes the offline evaluator with others; it never stands in for a model"
        if route.serves == "embeddings" and len({(one.vectors, one.query_prefix) for one in route.steps}) > 1:
            return f"route {route.name!r} names several embedding models or prefixes; their vectors cannot be compared"
        return None

    def in_use(self) -> Iterator[Provider]:
        """Yield the providers that some route leads to."""
        names = {step.provider for route in self.routes.values() for step in route.steps}
        return (self.providers[name] for name in names)

    def _named(self, serves: Kind, name: str) -> Route:
        route = self.routes.get(name)
        if route is None or route.serves != serves:
            known = ", ".join(sorted(one.name for one in self.routes.values() if one.serves == serves))
            raise UnknownRouteError(f"route {quoted(name)} is no route for {serves}; routes: {known}")
        return route
