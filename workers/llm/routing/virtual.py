"""The providers and routes that need no row: those of the environment and of the system settings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from workers.llm.names import OPENAI_EMBEDDING_MODEL, is_openai
from workers.llm.routing.routing import DEFAULT_OF, OFFLINE, Bound, Provider, Route, Routing, Step

OPENAI_URL = "https://api.openai.com/v1"
OPENROUTER_URL = "https://openrouter.ai/api/v1"
# Where each provider of the system settings answers unless they say otherwise.
HOSTS: Mapping[str, str] = {
    "lmstudio": "http://localhost:1234/v1",
    "openrouter": OPENROUTER_URL,
    "openai": OPENAI_URL,
}
# Where a kind of provider answers by itself.
URL_OF: Mapping[str, str] = {"openai": OPENAI_URL, "openrouter": OPENROUTER_URL}
ENVIRONMENT, SETTINGS = "environment", "settings"


class Choice(Protocol):
    """What the system settings choose, as plain values. None: the provider's own, or no such thing.

    Without a ``provider`` it is the environment's, asked for the models that are named here in the place of its own.
    ``problem`` says why the choice cannot be followed: every call fails with it, rather than go elsewhere.
    """

    @property
    def provider(self) -> str | None: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def llm_model(self) -> str | None: ...
    @property
    def embedding_model(self) -> str | None: ...
    @property
    def problem(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the environment says. With neither key nor address the offline evaluator answers."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    model: str | None = None
    embedding_model: str | None = None

    def provider(self) -> Provider:
        """Return it as a provider."""
        if not self.api_key and not self.base_url:
            return Provider(name=ENVIRONMENT, kind=OFFLINE, origin="environment")
        return Provider(
            name=ENVIRONMENT,
            kind="compatible" if self.base_url else "openai",
            base_url=self.base_url or OPENAI_URL,
            api_key=self.api_key,
            origin="environment",
        )


def merged(
    environment: Environment,
    choice: Choice | None,
    *,
    providers: Sequence[Provider] = (),
    routes: Sequence[Route] = (),
    bindings: Mapping[Bound, str] | None = None,
) -> Routing:
    """Return the rows together with what needs none: two providers and the two default routes, where no row has them.

    The default routes go to the provider of the system settings, if they choose one; else to the environment's.
    Of what the environment says, a provider of the settings inherits neither key, address nor model.
    """
    own = [environment.provider()]
    model, embedder = environment.model, environment.embedding_model
    if choice is not None and choice.provider is not None:
        own.append(_of_settings(choice))
        model, embedder = choice.llm_model, choice.embedding_model
    elif choice is not None:
        model, embedder = choice.llm_model or model, choice.embedding_model or embedder
    answers = own[-1]
    if answers.is_offline:  # it has models of its own, whatever the settings still name
        model = embedder = None
    elif not embedder and is_openai(answers.base_url or ""):
        embedder = OPENAI_EMBEDDING_MODEL
    defaults = [
        Route(
            name=DEFAULT_OF["chat"],
            serves="chat",
            steps=(Step(provider=answers.name, model=model),),
            origin=answers.origin,
        ),
        Route(
            name=DEFAULT_OF["embeddings"],
            serves="embeddings",
            steps=(Step(provider=answers.name, model=embedder),),
            origin=answers.origin,
        ),
    ]
    return Routing(
        providers={one.name: one for one in (*own, *providers)},
        routes={one.name: one for one in (*defaults, *routes)},
        bindings=bindings or {},
    )


def _of_settings(choice: Choice) -> Provider:
    assert choice.provider is not None
    if choice.provider == OFFLINE:
        return Provider(name=SETTINGS, kind=OFFLINE, origin="settings", problem=choice.problem)
    host = choice.base_url or HOSTS.get(choice.provider)
    problem = choice.problem
    if host is None and problem is None:
        problem = f"ai_provider must be one of {', '.join(HOSTS)}, {OFFLINE}, got {choice.provider!r}"
    return Provider(
        name=SETTINGS,
        kind=choice.provider,
        base_url=host,
        api_key=choice.api_key,
        origin="settings",
        problem=problem,
    )
