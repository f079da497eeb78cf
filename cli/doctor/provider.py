"""Checks of who answers language model calls: operators' choice first, the environment's else."""

import asyncio
import base64
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from cli.complaints import complaint
from cli.connection import opened
from cli.doctor.check import Check, verdict
from config.settings import Settings, keys_of
from workers.llm.names import public_url
from workers.llm.provider import HOSTS, OPENAI_URL, PLACEHOLDER_KEY
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import ProviderChoice, read_choice
from workers.operations.refusals import OperationsError
from workers.operations.system_settings import unreadable

OFFLINE = "offline evaluator (rule-based, not an AI judgement)"
_PROVIDER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class _Asked:
    """A server to ask, with what it is asked with and where both were said."""

    base_url: str
    key: str
    url_said_by: str
    key_said_by: str


async def provider(settings: Settings, database_url: str | None) -> list[Check]:
    """Check who answers, and that kept secrets can be read. Without a database: what the environment says."""
    if database_url is None:
        return [await asyncio.to_thread(_configured, settings)]
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    try:
        keyring = Keyring(keys_of(settings))
        async with opened(database_url) as database, database.session() as session:
            choice = await read_choice(session, keyring=keyring, openai_key=key)
            problems = await unreadable(session, keyring=keyring)
    except OperationsError as error:
        return [Check("secrets", "failed", str(error), "`gristmill settings new-key` prints a key")]
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        mend = "let this role of Postgres read operations.system_settings, or look at the Postgres check again"
        return [Check("provider", "failed", f"what operators chose cannot be read: {complaint(error)[0]}", mend)]
    mend = "give every role the keys they were encrypted with, or `gristmill settings set` them again"
    secrets = verdict("secrets", "; ".join(problems) or "all that are kept can be read", well=not problems, mend=mend)
    return [secrets, await asyncio.to_thread(_chosen, settings, choice)]


def _configured(settings: Settings) -> Check:
    if not settings.openai_api_key and not settings.openai_base_url:
        return Check("provider", "ok", OFFLINE, "set OPENAI_API_KEY or OPENAI_BASE_URL to ask a language model")
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else PLACEHOLDER_KEY
    return _ask(_Asked(settings.openai_base_url or OPENAI_URL, key, "OPENAI_BASE_URL", "OPENAI_API_KEY"))


def _chosen(settings: Settings, choice: ProviderChoice | None) -> Check:
    if choice is not None and choice.problem:
        return Check("provider", "failed", choice.problem, "`gristmill settings list` shows what is chosen")
    if choice is None or choice.provider is None:  # nothing but models is chosen: the environment's provider
        return _configured(settings)
    if choice.provider == "offline":
        return Check("provider", "ok", f"{OFFLINE}, chosen by `gristmill settings`")
    said_by = f"`gristmill settings set {{}}` (ai_provider is {choice.provider})"
    return _ask(
        _Asked(
            choice.base_url or HOSTS[choice.provider],
            choice.api_key or PLACEHOLDER_KEY,
            said_by.format("ai_host"),
            said_by.format(f"{choice.provider}_key"),
        )
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the key would go along, to whatever host, and in the clear."""

    def redirect_request(self, *_: Any) -> None:
        """Leave the redirect to the caller, as an HTTPError."""


def _ask(asked: _Asked) -> Check:
    """Ask the server for its list of models. Nothing that is said holds the key or the credentials of the URL."""
    try:
        base, headers = public_url(asked.base_url), {"Authorization": _authorization(asked)}
    except ValueError:
        return _unaskable(asked)
    try:
        request = urllib.request.Request(f"{base}/models", headers=headers)  # noqa: S310 - http(s) by the setting's rule
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_PROVIDER_SECONDS):
            return Check("provider", "ok", f"{base} answers")
    except urllib.error.HTTPError as error:
        with error:
            return _refused(asked, base, error.code)
    except OSError as error:
        found = f"{base} does not answer: {getattr(error, 'reason', error)}"
        return Check("provider", "failed", found, f"start it, or mend {asked.url_said_by}")
    except (ValueError, InvalidURL):  # whose text quotes the URL, or the header with the key
        return _unaskable(asked)
    except HTTPException as error:  # whose text is what the server sent
        found = f"{base} answers with no HTTP ({type(error).__name__})"
        return Check("provider", "failed", found, f"mend {asked.url_said_by}")


def _unaskable(asked: _Asked) -> Check:
    found = "the address is no URL that can be asked, or the key is none that can be sent"
    return Check("provider", "failed", found, f"mend {asked.url_said_by}, or {asked.key_said_by}")


def _authorization(asked: _Asked) -> str:
    """Return what the workers' client would send: credentials in the URL go before the key."""
    parts = urlsplit(asked.base_url)
    if not parts.hostname:
        raise ValueError("a URL without a host")
    if parts.username is None:
        return f"Bearer {asked.key}"
    said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(said.encode()).decode()}"


def _refused(asked: _Asked, base: str, code: int) -> Check:
    if code in {401, 403}:
        return Check("provider", "failed", f"{base} refuses the key ({code})", f"mend {asked.key_said_by}")
    if 300 <= code < 400:  # noqa: PLR2004 - HTTP's redirects
        found = f"{base} answers with a redirect ({code}), which the check does not follow"
        return Check("provider", "warning", found, f"put the address that answers itself into {asked.url_said_by}")
    return Check("provider", "ok", f"{base} answers, without a list of models ({code})")
