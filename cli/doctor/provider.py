"""Checks of who answers language model calls: operators' choice first, the environment's else."""

import asyncio
import base64
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.parse import unquote, urlsplit

from cli.complaints import server_trouble
from cli.connection import connected, opened
from cli.doctor.check import Check, State, is_denied, not_checked, permitted, verdict
from cli.doctor.roles import answering
from cli.provider import answers
from config.redaction import redact_text
from config.settings import Settings, keys_of
from workers.llm.names import TABLE_DEFAULT, is_openai, public_url, require_served
from workers.llm.provider import HOSTS, OPENAI_URL, PLACEHOLDER_KEY
from workers.llm.routing.tables import read
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import ProviderChoice, read_choice
from workers.operations.refusals import OperationsError
from workers.operations.system_settings import unreadable
from workers.runtime.handler.errors import Permanent
from workers.runtime.refusals import cut

OFFLINE = "offline evaluator (rule-based, not an AI judgement)"
_PROVIDER_SECONDS = 15
_MOST_BYTES = 1_000_000
FEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A server to ask, with what it is asked with and where both were said. Not ``chats``: it only embeds."""

    base_url: str
    key: str
    url_said_by: str
    key_said_by: str
    model: str | None = None
    embedding_model: str | None = None
    chats: bool = True


async def provider(settings: Settings, database_url: str | None) -> list[Check]:
    """Check who answers, and that kept secrets can be read. Without a database: what the environment says."""
    if database_url is None:
        return await asyncio.to_thread(_configured, settings, None)
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    try:
        keyring = Keyring(keys_of(settings))
        async with opened(database_url) as database, database.session() as session:
            choice = await read_choice(session, keyring=keyring, openai_key=key)
            rows = await read(session, decrypt=keyring.decrypt)
            problems = await unreadable(session, keyring=keyring)
            problems += [one.problem for one in rows.providers if one.problem]
    except OperationsError as error:
        return [Check("secrets", "failed", str(error), "`gristmill settings new-key` prints a key")]
    except Exception as error:  # noqa: BLE001 - what is no trouble of a server is raised again
        if is_denied(error):
            return [not_checked("secrets"), not_checked("provider")]
        mend = "look at the Postgres check again"
        return [Check("provider", "failed", f"what operators chose cannot be read: {server_trouble(error)}", mend)]
    mend = (
        "give every role the keys they were encrypted with, or set them again with `gristmill settings set` "
        "and `gristmill llm providers set`"
    )
    secrets = verdict("secrets", "; ".join(problems) or "all that are kept can be read", well=not problems, mend=mend)
    asked = await asyncio.to_thread(_chosen, settings, choice)
    async with connected(database_url) as connection:
        told = await permitted("workers ask", lambda: answering(connection, answers(settings, choice, rows)))
    return [secrets, *asked, *told]


def _configured(settings: Settings, choice: ProviderChoice | None) -> list[Check]:
    if not settings.openai_api_key and not settings.openai_base_url:
        return [Check("provider", "ok", OFFLINE, "set OPENAI_API_KEY or OPENAI_BASE_URL to ask a language model")]
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else PLACEHOLDER_KEY
    return ask_server(
        Asked(
            settings.openai_base_url or OPENAI_URL,
            key,
            "OPENAI_BASE_URL",
            "OPENAI_API_KEY",
            model=(choice and choice.llm_model) or settings.llm.model,
            embedding_model=(choice and choice.embedding_model) or settings.llm.embedding_model,
        )
    )


def _chosen(settings: Settings, choice: ProviderChoice | None) -> list[Check]:
    if choice is not None and choice.problem:
        return [Check("provider", "failed", choice.problem, "`gristmill settings list` shows what is chosen")]
    if choice is None or choice.provider is None:  # nothing but models is chosen: the environment's provider
        return _configured(settings, choice)
    if choice.provider == "offline":
        return [Check("provider", "ok", f"{OFFLINE}, chosen by `gristmill settings`")]
    said_by = f"`gristmill settings set {{}}` (ai_provider is {choice.provider})"
    return ask_server(
        Asked(
            choice.base_url or HOSTS[choice.provider],
            choice.api_key or PLACEHOLDER_KEY,
            said_by.format("ai_host"),
            said_by.format(f"{choice.provider}_key"),
            model=choice.llm_model,
            embedding_model=choice.embedding_model,
        )
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the key would go along, to whatever host, and in the clear."""

    def redirect_request(self, *_: Any) -> None:
        """Leave the redirect to the caller, as an HTTPError."""


def ask_server(asked: Asked) -> list[Check]:
    """Ask the server a short question, and for a short vector where a model for those is named.

    A list of models alone would come from a server that answers nothing else. Nothing that is said holds the key or the
    credentials of the URL.
    """
    try:
        asking = _Asking(public_url(asked.base_url), _authorization(asked), asked)
    except ValueError:
        return [_unaskable("provider", asked)]
    listed = asking.models()
    if isinstance(listed, Check):
        return [listed]
    model = asked.model or TABLE_DEFAULT
    names = None
    if asked.chats and listed and not is_served(model, listed):
        mend = "`gristmill settings set llm_model …`, or set GRISTMILL_LLM__MODEL, to one that it serves"
        found = (
            f"it serves no {model}, which jobs ask for that name no model; it serves {', '.join(sorted(listed)[:5])}"
        )
        names, model = Check("model", "warning", found, mend), min(listed)
    at_most = "max_completion_tokens" if is_openai(asked.base_url) else "max_tokens"
    question = {"model": model, at_most: FEW_TOKENS, "messages": [{"role": "user", "content": "Say ok."}]}
    checks = [asking.put("provider", "/chat/completions", question, "answers")] if asked.chats else []
    if asked.embedding_model:
        wanted = {"model": asked.embedding_model, "input": ["ok"]}
        checks.append(asking.put("embeddings", "/embeddings", wanted, f"embeds as {asked.embedding_model}"))
    return [*checks, names] if names else checks


class _Asking:
    """One server, asked with what the workers' client would send."""

    def __init__(self, base: str, authorization: str, asked: Asked) -> None:
        self._base = base
        self._headers = {"Authorization": authorization}
        self._asked = asked

    def models(self) -> frozenset[str] | Check:
        """Return the names that the server lists, none where it shows no list; or why it cannot be asked at all."""
        try:
            answer = self._send(urllib.request.Request(f"{self._base}/models", headers=self._headers))  # noqa: S310 - http(s) by the setting's rule
        except urllib.error.HTTPError as error:
            with error:
                return self._refused("provider", error) if 300 <= error.code < 400 else frozenset()  # noqa: PLR2004 - HTTP's redirects
        except (OSError, ValueError, InvalidURL, HTTPException) as error:
            return self._failed("provider", error)
        listed = _object(answer).get("data")
        ids = (one.get("id") for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()
        return frozenset(name for name in ids if isinstance(name, str))

    def put(self, name: str, path: str, body: dict[str, Any], done: str) -> Check:
        """Return what came of one question."""
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._base}{path}", json.dumps(body).encode(), headers)  # noqa: S310 - likewise
        try:
            answer = self._send(request)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(name, error)
        except (OSError, ValueError, InvalidURL, HTTPException) as error:
            return self._failed(name, error)
        if not (said := _object(answer)) and answer.strip() != b"{}":
            return Check(name, "failed", f"{self._base} answers with no JSON", f"mend {self._asked.url_said_by}")
        if said.get("error"):
            mend = f"look at its log, or mend {self._asked.url_said_by}"
            return Check(name, "failed", f"{self._base} answers with an error: {cut(_error(said))}", mend)
        return Check(name, "ok", f"{self._base} {done}")

    def _send(self, request: urllib.request.Request) -> bytes:
        until = time.monotonic() + _PROVIDER_SECONDS
        answer = b""
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_PROVIDER_SECONDS) as response:
            while len(answer) < _MOST_BYTES and (part := response.read1(65_536)):
                answer += part
                if time.monotonic() > until:
                    raise TimeoutError("it did not finish its answer in time")
        return answer

    def _failed(self, name: str, error: Exception) -> Check:
        if isinstance(error, OSError):
            found = f"{self._base} does not answer: {getattr(error, 'reason', error)}"
            return Check(name, "failed", found, f"start it, or mend {self._asked.url_said_by}")
        if isinstance(error, HTTPException) and not isinstance(error, InvalidURL):  # whose text is what the server sent
            found = f"{self._base} answers with no HTTP ({type(error).__name__})"
            return Check(name, "failed", found, f"mend {self._asked.url_said_by}")
        return _unaskable(name, self._asked)  # whose text quotes the URL, or the header with the key

    def _refused(self, name: str, error: urllib.error.HTTPError) -> Check:
        code, base = error.code, self._base
        if code in {401, 403}:
            return Check(name, "failed", f"{base} refuses the key ({code})", f"mend {self._asked.key_said_by}")
        if 300 <= code < 400:  # noqa: PLR2004 - HTTP's redirects
            found = f"{base} answers with a redirect ({code}), which the check does not follow"
            return Check(name, "warning", found, f"put the address that answers itself into {self._asked.url_said_by}")
        why = _why(error)
        if code == 429:  # noqa: PLR2004 - too many requests
            mend = "wait, or raise its limits; jobs wait by themselves, and a quota that is spent must be raised"
            state: State = "failed" if "quota" in why else "warning"
            return Check(name, state, f"{base} answers that it is asked too much (429){why}", mend)
        if code == 402:  # noqa: PLR2004 - payment required
            return Check(name, "failed", f"{base} asks to be paid (402){why}", "add credit there")
        if code == 404:  # noqa: PLR2004 - not found
            mend = f"name a model that it serves, or mend {self._asked.url_said_by}"
            return Check(name, "failed", f"{base} knows no such path or model (404){why}", mend)
        if code >= 500:  # noqa: PLR2004 - the server's own errors
            mend = f"look at its log and restart it, or mend {self._asked.url_said_by}"
            return Check(name, "failed", f"{base} answers with an error of its own ({code}){why}", mend)
        return Check(name, "warning", f"{base} answers, and refuses a short question ({code}){why}", "ask it by hand")


def _object(answer: bytes) -> dict[str, Any]:
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _error(said: dict[str, Any]) -> str:
    error = said.get("error")
    told = error.get("message") or error.get("code") if isinstance(error, dict) else error
    return redact_text(" ".join(str(told).split()))


def _why(error: urllib.error.HTTPError) -> str:
    """Return what the server says beside its status, cut short and without what looks like a secret."""
    try:
        said = _object(error.read(_MOST_BYTES))
    except (OSError, HTTPException, ValueError):
        return ""
    return f": {cut(_error(said))}" if said.get("error") else ""


def is_served(model: str, listed: frozenset[str]) -> bool:
    """Tell whether a server that lists these serves ``model``, as the workers judge it."""
    try:
        require_served(model, listed, server="")
    except Permanent:
        return False
    return True


def _unaskable(name: str, asked: Asked) -> Check:
    found = "the address is no URL that can be asked, or the key is none that can be sent"
    return Check(name, "failed", found, f"mend {asked.url_said_by}, or {asked.key_said_by}")


def _authorization(asked: Asked) -> str:
    """Return what the workers' client would send: credentials in the URL go before the key."""
    parts = urlsplit(asked.base_url)
    if not parts.hostname:
        raise ValueError("a URL without a host")
    if parts.username is None:
        return f"Bearer {asked.key}"
    said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(said.encode()).decode()}"
