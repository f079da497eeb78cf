"""Settings that take effect at run time: provider, models and keys.

The database has the same rules as CHECKs. Secrets are encrypted here and never shown.
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
from workers.operations.secret_shapes import looks_secret
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.refusals import Problem, quoted

PROVIDERS = ("lmstudio", "openrouter", "openai", "offline")
HIDDEN = "(set, encrypted)"
_MODEL = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,254}", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{8,500}")
# Only printable ASCII, and no user, query or fragment, because these may hold a key.
_HOST = re.compile(
    r"https?://([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\x00-\x20?#@\\\"<>\x7f-\U0010ffff]*)?"
)
_MAX_HOST_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class SettingRule:
    """A known setting: its rule in words, the function that checks it, a description, and whether it is a secret."""

    rule: str
    accepts: Callable[[str], bool]
    description: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting to show; the ``value`` of a secret only says that it is set."""

    key: str
    value: str
    description: str | None
    updated_at: datetime


def _is_host(value: str) -> bool:
    if len(value) > _MAX_HOST_CHARACTERS or not _HOST.fullmatch(value) or looks_secret(value):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.port != 0  # raises ValueError for an invalid port or address
    except ValueError:
        return False


def _secret_setting(provider: str) -> SettingRule:
    description = f"key of {provider}, encrypted with GRISTMILL_SECRET_KEYS"
    return SettingRule(
        "be 8 to 500 printable ASCII characters without spaces", lambda v: bool(_KEY.fullmatch(v)), description, True
    )


def _model_setting(description: str) -> SettingRule:
    rule = "be a model name like gpt-4o-mini or vendor/model:tag"
    return SettingRule(rule, lambda value: bool(_MODEL.fullmatch(value)) and not looks_secret(value), description)


HOST_RULE = "be an http or https URL without credentials, query or fragment"
KNOWN_SETTINGS: Mapping[str, SettingRule] = {
    "ai_provider": SettingRule(
        f"be one of {', '.join(PROVIDERS)}", PROVIDERS.__contains__, "provider of answers and embeddings"
    ),
    "ai_host": SettingRule(HOST_RULE, _is_host, "base URL, if it is not the provider's default"),
    "llm_model": _model_setting("model for jobs that name none"),
    "embedding_model": _model_setting("model for embeddings; after a change, embed each project again"),
    "openrouter_key": _secret_setting("openrouter"),
    "openai_key": _secret_setting("openai"),
}


async def put(
    session: AsyncSession, values: Mapping[str, str], *, keyring: Keyring, actor: Actor = NOBODY
) -> list[str]:
    """Set ``values`` by key, all or none; return the keys that were unset. Running workers apply it within seconds.

    If ``ai_provider`` changes and ``ai_host`` is not given, ``ai_host`` is unset, so that the key of one provider is
    never sent to the host of another. Raise OperationsError if a key or a value breaks a rule.
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
    """Unset ``key``; return the keys that were unset. ``ai_host`` is unset together with ``ai_provider``.

    Rows of older releases with unknown keys can be removed too.
    """
    async with acting(session, actor):
        if key not in KNOWN_SETTINGS and (gone := await _unset(session, key)):
            return gone
        require_known(key)
        return await _unset(session, *(["ai_provider", "ai_host"] if key == "ai_provider" else [key]))


async def list_settings(session: AsyncSession) -> list[SettingView]:
    """Return every setting. The values of secrets and of unknown settings are hidden."""
    rows = await session.scalars(select(SystemSetting).order_by(SystemSetting.key))
    return [SettingView(row.key, _shown_value(row), row.description, row.updated_at) for row in rows]


async def rotate(session: AsyncSession, *, keyring: Keyring, actor: Actor = NOBODY) -> int:
    """Encrypt every secret again with the first key; return how many. If no key decrypts one of them, change none."""
    query = select(SystemSetting).where(SystemSetting.key.in_(_secret_keys())).with_for_update()
    async with acting(session, actor), session.begin_nested():
        done = 0
        for row in await session.scalars(query):
            try:
                row.value = keyring.rotate(row.value)
            except OperationsError as error:
                raise OperationsError(f"{row.key}: {error}") from None
            done += 1
    return done


async def list_unreadable(session: AsyncSession, *, keyring: Keyring) -> list[str]:
    """Return a line for each secret that no key decrypts, and for each row of an older release that breaks a rule."""
    lines = []
    for row in await session.scalars(select(SystemSetting).order_by(SystemSetting.key)):
        known = KNOWN_SETTINGS.get(row.key)
        if known is None:
            lines.append(
                f"{quoted(row.key)} is not a setting: `gristmill settings remove` it, it may hold an unencrypted key"
            )
        elif not known.secret:
            if not known.accepts(row.value):
                lines.append(f"{row.key} must {known.rule}: set it again")
        else:
            try:
                keyring.decrypt(row.value)
            except OperationsError as error:
                lines.append(f"{row.key}: {error}")
    return lines


def require_known(key: str) -> SettingRule:
    """Return the setting of ``key``; raise OperationsError, with the nearest name, if it is unknown."""
    if key not in KNOWN_SETTINGS:
        nearest = difflib.get_close_matches(key.strip().lower(), KNOWN_SETTINGS, n=1, cutoff=0.7)
        hint = f"did you mean {nearest[0]}?" if nearest else f"settings: {', '.join(KNOWN_SETTINGS)}"
        shown = "the given key" if looks_secret(key) else quoted(key)
        raise OperationsError(f"{shown} is not a system setting; {hint}")
    return KNOWN_SETTINGS[key]


def _row(key: str, value: str, keyring: Keyring) -> dict[str, str]:
    """Return the row for ``value``, encrypted if it is a secret."""
    known = require_known(key)
    if not known.accepts(value):
        given = "a hidden value" if known.secret or looks_secret(value) else quoted(value)
        raise OperationsError(Problem(key, f"must {known.rule}", given))
    stored = keyring.encrypt(value) if known.secret else value
    return {"key": key, "value": stored, "description": known.description}


async def _unset(session: AsyncSession, *keys: str) -> list[str]:
    """Delete these settings; return the keys that existed."""
    gone = delete(SystemSetting).where(SystemSetting.key.in_(keys)).returning(SystemSetting.key)
    return sorted(await session.scalars(gone), key=keys.index)


def _secret_keys() -> list[str]:
    return [key for key, known in KNOWN_SETTINGS.items() if known.secret]


def _shown_value(row: SystemSetting) -> str:
    known = KNOWN_SETTINGS.get(row.key)
    return HIDDEN if known is None or known.secret else row.value
