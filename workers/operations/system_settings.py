"""Settings that take effect while everything runs: which provider answers, which models, with which key.

The database holds the same rules as CHECKs. Secrets are encrypted here and shown nowhere.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import SystemSetting
from workers.operations.keyring import Keyring
from workers.operations.refusals import OperationsError
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.refusals import Problem, quoted
from workers.runtime.secret_shapes import looks_secret

PROVIDERS = ("lmstudio", "openrouter", "openai", "offline")
HIDDEN = "(set, encrypted)"
_MODEL = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,254}", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{8,500}")
# A plain address: no user, query or fragment, which may hold a key, and nothing that is not printable ASCII.
_HOST = re.compile(
    r"https?://([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\x00-\x20?#@\\\"<>\x7f-\U0010ffff]*)?"
)
_LONGEST_HOST = 2_000


@dataclass(frozen=True, slots=True)
class Known:
    """A setting that means something: its rule in words, what holds it, what it is for, whether it is a secret."""

    rule: str
    holds: Callable[[str], bool]
    description: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting as it may be shown; ``value`` of a secret says only that there is one."""

    key: str
    value: str
    description: str | None
    updated_at: datetime


def _is_host(value: str) -> bool:
    if len(value) > _LONGEST_HOST or not _HOST.fullmatch(value) or looks_secret(value):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.port != 0  # raises for a port or an address that is none
    except ValueError:
        return False


def _secret(provider: str) -> Known:
    description = f"key of {provider}, encrypted with GRISTMILL_SECRET_KEYS"
    return Known(
        "be 8 to 500 printable characters without blanks", lambda v: bool(_KEY.fullmatch(v)), description, True
    )


def _model(description: str) -> Known:
    rule = "be a model name such as gpt-4o-mini or vendor/model:tag"
    return Known(rule, lambda value: bool(_MODEL.fullmatch(value)) and not looks_secret(value), description)


HOST_RULE = "be an http or https URL without credentials, query or fragment"
KNOWN: Mapping[str, Known] = {
    "ai_provider": Known(f"be one of {', '.join(PROVIDERS)}", PROVIDERS.__contains__, "who answers and embeds"),
    "ai_host": Known(HOST_RULE, _is_host, "base URL, where not the provider's own"),
    "llm_model": _model("model asked where a job names none"),
    "embedding_model": _model("model that embeds; a change re-embeds as records come by"),
    "openrouter_key": _secret("openrouter"),
    "openai_key": _secret("openai"),
}


async def put(
    session: AsyncSession, values: Mapping[str, str], *, keyring: Keyring, actor: Actor = NOBODY
) -> list[str]:
    """Set ``values`` by key, all or none; running workers follow within seconds. Return what was unset by that.

    With another ``ai_provider`` than before ``ai_host`` goes, unless it is given too: the host of one provider must
    not be sent the key of another. Raise OperationsError if a key or a value breaks a rule.
    """
    rows = [_row(key, value.strip(), keyring) for key, value in sorted(values.items())]
    row = insert(SystemSetting).values(rows)
    async with acting(session, actor):
        unset = []
        if "ai_provider" in values and "ai_host" not in values:
            held = select(SystemSetting.value).where(SystemSetting.key == "ai_provider").with_for_update()
            if await session.scalar(held) not in {None, values["ai_provider"].strip()}:
                unset = await _unset(session, "ai_host")
        await session.execute(
            row.on_conflict_do_update(
                index_elements=[SystemSetting.key],
                set_={"value": row.excluded.value, "description": row.excluded.description},
            )
        )
    return unset


async def remove(session: AsyncSession, key: str, *, actor: Actor = NOBODY) -> list[str]:
    """Unset ``key``; return what was set and is no more. The host of a provider goes with it.

    What an older release let in under a name that is no setting can be removed as well.
    """
    async with acting(session, actor):
        if key not in KNOWN and (gone := await _unset(session, key)):
            return gone
        require_known(key)
        return await _unset(session, *(["ai_provider", "ai_host"] if key == "ai_provider" else [key]))


async def list_settings(session: AsyncSession) -> list[SettingView]:
    """Return every setting, secrets hidden; what this release does not know is hidden as well."""
    rows = await session.scalars(select(SystemSetting).order_by(SystemSetting.key))
    return [SettingView(row.key, _showable(row), row.description, row.updated_at) for row in rows]


async def rotate(session: AsyncSession, *, keyring: Keyring, actor: Actor = NOBODY) -> int:
    """Encrypt every secret anew with the first key; return how many. All or none: one that no key fits refuses all."""
    query = select(SystemSetting).where(SystemSetting.key.in_(_secrets())).with_for_update()
    async with acting(session, actor), session.begin_nested():
        done = 0
        for row in await session.scalars(query):
            try:
                row.value = keyring.rotate(row.value)
            except OperationsError as error:
                raise OperationsError(f"{row.key}: {error}") from None
            done += 1
    return done


async def unreadable(session: AsyncSession, *, keyring: Keyring) -> list[str]:
    """Return a line for each secret that no key decrypts, and for what an older release let in and none may keep."""
    lines = []
    for row in await session.scalars(select(SystemSetting).order_by(SystemSetting.key)):
        known = KNOWN.get(row.key)
        if known is None:
            lines.append(
                f"{quoted(row.key)} is no setting: `gristmill settings remove` it, it may hold a key in the clear"
            )
        elif not known.secret:
            if not known.holds(row.value):
                lines.append(f"{row.key} must {known.rule}: set it again")
        else:
            try:
                keyring.decrypt(row.value)
            except OperationsError as error:
                lines.append(f"{row.key}: {error}")
    return lines


def require_known(key: str) -> Known:
    """Return what ``key`` means; raise OperationsError, with the nearest name, if it is no setting."""
    if key not in KNOWN:
        nearest = difflib.get_close_matches(key.strip().lower(), KNOWN, n=1, cutoff=0.7)
        hint = f"did you mean {nearest[0]}?" if nearest else f"settings: {', '.join(KNOWN)}"
        shown = "what was given" if looks_secret(key) else quoted(key)
        raise OperationsError(f"{shown} is not a system setting; {hint}")
    return KNOWN[key]


def _row(key: str, value: str, keyring: Keyring) -> dict[str, str]:
    """Return the row that holds ``value``, encrypted if it is a secret."""
    known = require_known(key)
    if not known.holds(value):
        given = "what was given" if known.secret or looks_secret(value) else quoted(value)
        raise OperationsError(Problem(key, f"must {known.rule}", given))
    stored = keyring.encrypt(value) if known.secret else value
    return {"key": key, "value": stored, "description": known.description}


async def _unset(session: AsyncSession, *keys: str) -> list[str]:
    """Delete these settings; return those that there were."""
    gone = delete(SystemSetting).where(SystemSetting.key.in_(keys)).returning(SystemSetting.key)
    return sorted(await session.scalars(gone), key=keys.index)


def _secrets() -> list[str]:
    return [key for key, known in KNOWN.items() if known.secret]


def _showable(row: SystemSetting) -> str:
    known = KNOWN.get(row.key)
    return HIDDEN if known is None or known.secret else row.value
