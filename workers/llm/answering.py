"""Who answers the calls of a process, without any secret: what workers report and people compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.llm.names import public_url
from workers.llm.provider import HOSTS, OPENAI_URL
from workers.llm.switching import Choice
from workers.runtime.handler.errors import one_line
from workers.runtime.refusals import quoted

OFFLINE = "offline"
UNREADABLE = "(an address that cannot be read)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Which provider, where, asked for which models, by whose choice; ``problem`` is why it cannot be asked."""

    provider: str
    url: str | None = None
    model: str | None = None
    embedding_model: str | None = None
    has_key: bool = False
    chosen_by: str = "environment"
    problem: str | None = None


def answering(
    *,
    choice: Choice | None,
    api_key: str | None,
    base_url: str | None,
    model: str | None,
    embedding_model: str | None,
) -> Answering:
    """Return who answers for these settings and the operators' choice, as ``provider.build`` has it. Pure."""
    if choice is None or choice.provider is None:
        llm_model = (choice and choice.llm_model) or model
        embeds = (choice and choice.embedding_model) or embedding_model
        if not api_key and not base_url:
            return Answering(provider=OFFLINE)
        return Answering(
            provider="openai" if not base_url else "compatible",
            url=_shown(base_url or OPENAI_URL),
            model=llm_model,
            embedding_model=embeds,
            has_key=bool(api_key),
        )
    if choice.provider == OFFLINE:
        return Answering(provider=OFFLINE, chosen_by="settings", problem=choice.problem)
    host = choice.base_url or HOSTS.get(choice.provider)
    return Answering(
        provider=choice.provider,
        url=_shown(host) if host else None,
        model=choice.llm_model,
        embedding_model=choice.embedding_model,
        has_key=bool(choice.api_key),
        chosen_by="settings",
        problem=choice.problem,
    )


def report_of(provider: object) -> Mapping[str, Any]:
    """Return what a worker reported, as its row has it; one that is no object is a report with a problem."""
    if provider is None or isinstance(provider, Mapping):
        return provider or {}
    return {"problem": f"a worker's report of its provider must be an object, got {quoted(provider)}"}


def told(provider: object) -> str:
    """Return in a few words what a worker reported; nothing where it has not."""
    report = report_of(provider)
    words = " ".join(str(report[part]) for part in ("provider", "url", "model") if report.get(part))
    problem = report.get("problem")
    return one_line(": ".join(str(part) for part in (words, problem) if part))


def _shown(url: str) -> str:
    try:
        return public_url(url)
    except ValueError:
        return UNREADABLE
