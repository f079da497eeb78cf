"""Providers: list, add, change, pause, resume and remove them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.llm.limits import Cooldown
from models.llm.providers import Provider
from models.llm.routes import RouteStep
from workers.llm.operate.refusals import Exists, InUse, LlmRefusal, checked, matching, require_known
from workers.llm.pause_store import MAX_PAUSES, STALE
from workers.llm.routing.resuming import Resumed, resume_provider
from workers.llm.routing.routing import Provider as Followed
from workers.llm.routing.routing import Routing
from workers.llm.routing.virtual import ENVIRONMENT, SETTINGS, URL_OF
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Database
from workers.runtime.operate.waking import wake_jobs
from workers.runtime.refusals import Problem, quoted
from workers.runtime.versions import require_version, version_at

State = Literal["open", "paused", "away", "cooling down", "unusable"]
MADE_ELSEWHERE = {
    ENVIRONMENT: "comes from OPENAI_API_KEY, OPENAI_BASE_URL and GRISTMILL_LLM__*; change those",
    SETTINGS: "comes from the system settings; change it with `gristmill settings`",
}
LIST = "`gristmill llm providers` shows them"
_KEY = r"[\x21-\x7e]{8,500}"
_HOSTED = frozenset({"openai", "openrouter"})
_STEM = r"https?://([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_URL = rf"{_STEM}(/[^\x00-\x20?#@\\\"<>\x7f-\U0010ffff]*)?"


class Keyring(Protocol):
    """Encrypts secrets and reads them again."""

    def encrypt(self, secret: str) -> str:
        """Return ``secret`` encrypted with the first key; raise a Refusal if there is none."""

    def decrypt(self, token: str) -> str:
        """Return the secret; raise a Refusal if no key fits."""

    def rotate(self, token: str) -> str:
        """Return the same secret encrypted with the first key; raise a Refusal if no key fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CooldownView:
    """A model that nobody calls until then, because it refused a call; None means all models of its provider."""

    provider: str
    model: str | None
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    """A provider as it may be shown. ``origin`` says who made it: a row, the environment or the system settings.

    ``state`` tells whether it is asked now, and ``reason`` and ``until`` why not and for how long. ``routes`` are those
    that have a step there. ``version`` is None unless it is a row (``workers.runtime.versions``).
    """

    name: str
    kind: str
    base_url: str | None
    has_key: bool
    origin: str
    state: State
    reason: str | None
    since: datetime | None
    until: datetime | None
    cooldowns: Sequence[CooldownView]
    routes: Sequence[str]
    version: int | None = None


Name = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "be of letters, digits, dots, dashes and underscores", longest=40)
]
_URL_RULE = "be an http or https URL without credentials, query or fragment"
BaseUrl = Annotated[str, matching(_URL, _URL_RULE, longest=2_000)]


class NewProvider(BaseModel):
    """What a provider is made of. A compatible one needs an address; a hosted one needs a key, sent to https only."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Name
    kind: Literal["openai", "openrouter", "compatible", "offline"]
    base_url: BaseUrl | None = None
    api_key: SecretStr | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "NewProvider":
        if self.name in MADE_ELSEWHERE:
            raise ValueError(f"name must not be {self.name!r}: that provider {MADE_ELSEWHERE[self.name]}")
        if self.kind == "compatible" and self.base_url is None:
            raise ValueError("base_url is required of a compatible provider; such as http://localhost:8080/v1")
        if self.kind == "offline" and (self.base_url is not None or self.api_key is not None):
            raise ValueError("base_url and key are not for the offline evaluator: it asks no server")
        if self.kind in _HOSTED and self.api_key is None:
            raise ValueError(f"key is required of kind {self.kind}; it is read from standard input, or --key-env VAR")
        return self


async def list_providers(session: AsyncSession, routing: Routing) -> list[ProviderView]:
    """Return every provider, those of the environment and of the system settings first, then by name."""
    cooldowns = await _cooldowns(session)
    pauses = await _pauses(session)
    rows = await session.execute(select(Provider.name, Provider.updated_at))
    changed = {row.name: row.updated_at for row in rows}
    order = {ENVIRONMENT: 0, SETTINGS: 1}
    return [
        replace(
            _view(one, routing, [c for c in cooldowns if c.provider == one.name], pauses),
            version=version_at(changed[one.name]) if one.name in changed else None,
        )
        for one in sorted(routing.providers.values(), key=lambda one: (order.get(one.name, 2), one.name))
    ]


async def add_provider(
    session: AsyncSession, given: Mapping[str, Any], *, keyring: Keyring, actor: Actor = NOBODY
) -> str:
    """Add a provider; return its name. Running processes follow within seconds. Routes are added apart."""
    new = checked(NewProvider, given, whole="provider")
    values = {
        "name": new.name,
        "kind": new.kind,
        "base_url": _address(new.kind, new.base_url),
        "api_key": _encrypted(new.api_key, keyring),
    }
    async with acting(session, actor):
        made = await session.scalar(insert(Provider).values(values).on_conflict_do_nothing().returning(Provider.name))
    if made is None:
        raise Exists(f"provider {new.name!r} exists already", remedy="`gristmill llm providers set` changes it")
    return new.name


async def change_provider(
    session: AsyncSession,
    name: str,
    given: Mapping[str, Any],
    *,
    keyring: Keyring,
    version: int | None = None,
    actor: Actor = NOBODY,
) -> None:
    """Change what is given of a provider; the result must keep the rules of a new one.

    With ``version`` (``workers.runtime.versions``), raise StaleVersion if the provider has another one. The key is kept
    unless one is given. With another address a key is needed anew: the key of one server must not be sent to another.
    """
    async with acting(session, actor):
        row = await _get(session, name)
        require_version(f"provider {name}", row.updated_at, version)
        kind, url = given.get("kind", row.kind), given.get("base_url", row.base_url)
        moves = (url or URL_OF.get(kind)) != (row.base_url or URL_OF.get(row.kind))
        if moves and row.api_key is not None and given.get("api_key") is None:
            rule = "is required with another address: the key of one server is not sent to another"
            raise LlmRefusal(Problem("key", rule, None, "give it on standard input, or with --key-env VAR"))
        held = SecretStr("held-as-it-is") if row.api_key is not None else None
        now = {"name": row.name, "kind": row.kind, "base_url": row.base_url, "api_key": held}
        new = checked(NewProvider, now | dict(given), whole="provider")
        values = {"kind": new.kind, "base_url": _address(new.kind, new.base_url)}
        if given.get("api_key") is not None:
            values["api_key"] = _encrypted(new.api_key, keyring)
        await session.execute(update(Provider).where(Provider.name == name).values(values))


async def remove_provider(session: AsyncSession, name: str, *, actor: Actor = NOBODY) -> None:
    """Delete a provider with its key; raise InUse if a route has a step there. Its calls stay in the ledger."""
    async with acting(session, actor):
        await _get(session, name)
        routes = sorted(set(await session.scalars(select(RouteStep.route).where(RouteStep.provider == name))))
        if routes:
            raise InUse(f"provider {name!r} is in use by {', '.join(routes)}", remedy="change or remove those first")
        await session.execute(delete(Provider).where(Provider.name == name))


async def pause_provider(session: AsyncSession, name: str, reason: str, *, actor: Actor = NOBODY) -> None:
    """Ask a provider nothing more until it is resumed. Its jobs wait and spend no attempt."""
    async with acting(session, actor):
        await _get(session, name)
        values = {
            "paused_at": func.coalesce(Provider.paused_at, func.clock_timestamp()),
            "paused_reason": reason[:500],
        }
        await session.execute(update(Provider).where(Provider.name == name).values(values))


async def resume_providers(
    session: AsyncSession, routing: Routing, name: str | None = None, *, actor: Actor = NOBODY
) -> list[Resumed]:
    """Ask a provider again, or all of them: end its pause, its cooldowns and the outages that processes share of it.

    :func:`wake_resumed` has their jobs go on, after this is committed. Raise Unknown.
    """
    if name is not None:
        require_known("provider", name, routing.providers, remedy=LIST)
    done = []
    for one in sorted(routing.providers if name is None else [name]):
        ended = await resume_provider(session, one, actor, routing=routing)
        async with acting(session, actor):
            query = delete(Cooldown).where(Cooldown.provider == one).returning(Cooldown.reason)
            cooled = list(await session.scalars(query))
        done.append(replace(ended, reasons=[*ended.reasons, *cooled]))
    return done


async def wake_resumed(database: Database, resumed: Sequence[Resumed]) -> list[Resumed]:
    """Let the jobs go on at once that were snoozed because of these providers, in transactions of their own.

    Return the providers of which something ended or some job goes on.
    """
    done = [replace(one, woken=await wake_jobs(database, causes=one.causes)) for one in resumed]
    return [one for one in done if one.reasons or one.woken]


async def rotate_keys(session: AsyncSession, *, keyring: Keyring, actor: Actor = NOBODY) -> int:
    """Encrypt every key anew with the first key of the keyring; return how many. One that no key fits refuses all."""
    async with acting(session, actor), session.begin_nested():
        rows = (await session.scalars(select(Provider).where(Provider.api_key.is_not(None)).with_for_update())).all()
        for row in rows:
            row.api_key = keyring.rotate(row.api_key or "")
        await session.flush()
        return len(rows)


async def _get(session: AsyncSession, name: str) -> Provider:
    """Return a provider's row, locked; raise LlmRefusal for those without a row, else Unknown."""
    if name in MADE_ELSEWHERE:
        raise LlmRefusal(f"provider {name} {MADE_ELSEWHERE[name]}")
    found = await session.get(Provider, name, with_for_update=True)
    if found is None:
        known = list(await session.scalars(select(Provider.name)))
        require_known("provider", name, known, remedy=LIST)
    assert found is not None
    return found


def _address(kind: str, url: str | None) -> str | None:
    """Return the address as it is kept; raise LlmRefusal for one that is none, or that a key must not be sent to."""
    if url is None:
        return None
    if kind in _HOSTED and not url.startswith("https://"):
        raise LlmRefusal(Problem("base_url", f"must be https for kind {kind}: its key is sent there", quoted(url)))
    return url


def _encrypted(key: SecretStr | None, keyring: Keyring) -> str | None:
    if key is None:
        return None
    if not re.fullmatch(_KEY, key.get_secret_value()):
        raise LlmRefusal(Problem("key", "must be 8 to 500 printable characters without blanks", "what was given"))
    return keyring.encrypt(key.get_secret_value())


class _Pause(NamedTuple):
    """What shared outages say of a server, a model of one, or a key."""

    since: datetime
    until: datetime
    reason: str


async def _cooldowns(session: AsyncSession) -> list[CooldownView]:
    query = select(Cooldown).where(Cooldown.until > func.clock_timestamp()).order_by(Cooldown.provider, Cooldown.model)
    return [
        CooldownView(provider=one.provider, model=one.model or None, until=one.until, reason=one.reason)
        for one in await session.scalars(query)
    ]


async def _pauses(session: AsyncSession) -> dict[str, _Pause]:
    """Return the outages that processes share, by what is paused. One that nobody has renewed is of the past."""
    rows = await session.execute(
        text(
            "SELECT provider, since, until, reason FROM runtime.provider_pauses "
            "WHERE until > now() - make_interval(secs => :stale) LIMIT :most"
        ),
        {"stale": STALE.total_seconds(), "most": MAX_PAUSES},
    )
    return {row.provider: _Pause(row.since, row.until, row.reason) for row in rows}


def _view(
    one: Followed, routing: Routing, cooldowns: Sequence[CooldownView], pauses: Mapping[str, _Pause]
) -> ProviderView:
    server = one.server or ""
    away = pauses.get(one.key_name) or pauses.get(server)
    models = [
        CooldownView(provider=one.name, model=name.removeprefix(f"{server}|"), until=pause.until, reason=pause.reason)
        for name, pause in sorted(pauses.items())
        if server and name.startswith(f"{server}|")
    ]
    every = next((cooldown for cooldown in cooldowns if cooldown.model is None), None)
    state: State = "open"
    reason, since, until = None, None, None
    if one.problem:
        state, reason = "unusable", one.problem
    elif one.paused_at is not None:
        state, reason, since = "paused", one.paused_reason, one.paused_at
    elif away is not None:
        state, reason, since, until = "away", away.reason, away.since, away.until
    elif every is not None:
        state, reason, until = "cooling down", every.reason, every.until
    return ProviderView(
        name=one.name,
        kind=one.kind,
        base_url=one.server,
        has_key=one.api_key is not None or bool(one.problem and one.problem.startswith("key of ")),
        origin=one.origin,
        state=state,
        reason=reason,
        since=since,
        until=until,
        cooldowns=[*cooldowns, *models],
        routes=sorted(
            route.name for route in routing.routes.values() if any(step.provider == one.name for step in route.steps)
        ),
    )
