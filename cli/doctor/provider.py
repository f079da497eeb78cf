"""Checks of the provider that answers language model calls: the one that operators chose, else the configured one."""

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

from cli.connection import open_connection, open_database
from cli.doctor.check import Check, CheckState, is_denied, not_checked, ok_or_failed, run_permitted
from cli.doctor.roles import check_answering
from cli.error_lines import server_error_line
from cli.provider import answering_of
from cli.secret_keys import find_keys
from config.redaction import redact_text
from config.settings import Settings
from workers.llm.names import TABLE_DEFAULT, is_openai, public_url, require_served
from workers.llm.provider import HOSTS, OPENAI_URL, PLACEHOLDER_KEY
from workers.llm.routing.tables import read
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import ProviderChoice, read_choice
from workers.operations.refusals import OperationsError
from workers.operations.system_settings import list_unreadable
from workers.runtime.handler.errors import Permanent
from workers.runtime.refusals import cut

OFFLINE = "offline evaluator (rule-based, not an AI judgement)"
_TIMEOUT_SECONDS = 15
_MAX_BYTES = 1_000_000
_MAX_MODELS = 5
MAX_ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class AskedServer:
    """A server to ask, the key, and the names of the settings that both come from. Without ``chats`` it only embeds."""

    base_url: str
    key: str
    url_setting: str
    key_setting: str
    model: str | None = None
    embedding_model: str | None = None
    chats: bool = True


async def check_provider(settings: Settings, database_url: str | None) -> list[Check]:
    """Check the provider, and that stored secrets can be read. Without a database, check the configured provider."""
    if database_url is None:
        return await asyncio.to_thread(_check_configured, settings, None)
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    try:
        keyring = Keyring(find_keys(settings))
        async with open_database(database_url) as database, database.session() as session:
            choice = await read_choice(session, keyring=keyring, openai_key=key)
            rows = await read(session, decrypt=keyring.decrypt)
            problems = await list_unreadable(session, keyring=keyring)
            problems += [one.problem for one in rows.providers if one.problem]
    except OperationsError as error:
        return [Check("secrets", "failed", str(error), "`gristmill settings new-key` prints a key")]
    except Exception as error:  # noqa: BLE001 - errors that are not of a server are raised again
        if is_denied(error):
            return [not_checked("secrets"), not_checked("provider")]
        remedy = "see the Postgres check"
        found = f"the choice of the operators cannot be read: {server_error_line(error)}"
        return [Check("provider", "failed", found, remedy)]
    remedy = (
        "give every role the keys that encrypted them, or set them again with `gristmill settings set` "
        "and `gristmill llm providers set`"
    )
    found = "; ".join(problems) or "all stored secrets can be read"
    secrets = ok_or_failed("secrets", found, ok=not problems, remedy=remedy)
    providers = await asyncio.to_thread(_check_chosen, settings, choice)
    async with open_connection(database_url) as connection:
        here = answering_of(settings, choice, rows)
        workers = await run_permitted("workers ask", lambda: check_answering(connection, here))
    return [secrets, *providers, *workers]


def _check_configured(settings: Settings, choice: ProviderChoice | None) -> list[Check]:
    if not settings.openai_api_key and not settings.openai_base_url:
        return [Check("provider", "ok", OFFLINE, "set OPENAI_API_KEY or OPENAI_BASE_URL to ask a language model")]
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else PLACEHOLDER_KEY
    return check_server(
        AskedServer(
            settings.openai_base_url or OPENAI_URL,
            key,
            "OPENAI_BASE_URL",
            "OPENAI_API_KEY",
            model=(choice and choice.llm_model) or settings.llm.model,
            embedding_model=(choice and choice.embedding_model) or settings.llm.embedding_model,
        )
    )


def _check_chosen(settings: Settings, choice: ProviderChoice | None) -> list[Check]:
    if choice is not None and choice.problem:
        return [Check("provider", "failed", choice.problem, "`gristmill settings list` shows what is chosen")]
    if choice is None or choice.provider is None:  # at most models are chosen: the configured provider answers
        return _check_configured(settings, choice)
    if choice.provider == "offline":
        return [Check("provider", "ok", f"{OFFLINE}, chosen by `gristmill settings`")]
    setting = f"`gristmill settings set {{}}` (ai_provider is {choice.provider})"
    return check_server(
        AskedServer(
            choice.base_url or HOSTS[choice.provider],
            choice.api_key or PLACEHOLDER_KEY,
            setting.format("ai_host"),
            setting.format(f"{choice.provider}_key"),
            model=choice.llm_model,
            embedding_model=choice.embedding_model,
        )
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it would send the key to any host, perhaps without encryption."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing, so that the caller gets the redirect as an HTTPError."""


def check_server(target: AskedServer) -> list[Check]:
    """Send the server a short question, and a short text to embed if an embedding model is named.

    A list of models is not enough: a server may return it and fail all else. The results contain neither the key nor
    the credentials of the URL.
    """
    try:
        client = _ProviderClient(public_url(target.base_url), _authorization(target), target)
    except ValueError:
        return [_invalid_target("provider", target)]
    listed = client.list_models()
    if isinstance(listed, Check):
        return [listed]
    model = target.model or TABLE_DEFAULT
    model_check = None
    if target.chats and listed and not is_served(model, listed):
        remedy = "name a model that it serves: `gristmill settings set llm_model …`, or set GRISTMILL_LLM__MODEL"
        served = ", ".join(sorted(listed)[:_MAX_MODELS])
        found = f"it does not serve {model}, the model of jobs that name none; it serves {served}"
        model_check, model = Check("model", "warning", found, remedy), min(listed)
    limit_name = "max_completion_tokens" if is_openai(target.base_url) else "max_tokens"
    question = {"model": model, limit_name: MAX_ANSWER_TOKENS, "messages": [{"role": "user", "content": "Say ok."}]}
    checks = [client.check_answer("provider", "/chat/completions", question, "answers")] if target.chats else []
    if target.embedding_model:
        wanted = {"model": target.embedding_model, "input": ["ok"]}
        checks.append(client.check_answer("embeddings", "/embeddings", wanted, f"embeds as {target.embedding_model}"))
    return [*checks, model_check] if model_check else checks


class _ProviderClient:
    """Sends requests to one server, as the client of the workers would."""

    def __init__(self, base: str, authorization: str, target: AskedServer) -> None:
        self._base = base
        self._headers = {"Authorization": authorization}
        self._target = target

    def list_models(self) -> frozenset[str] | Check:
        """Return the models that the server lists (none without a list), or a failed check if it does not answer."""
        try:
            answer = self._send(urllib.request.Request(f"{self._base}/models", headers=self._headers))  # noqa: S310 - the rule of the setting allows only http(s)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused("provider", error) if 300 <= error.code < 400 else frozenset()  # noqa: PLR2004 - redirects
        except (OSError, ValueError, InvalidURL, HTTPException) as error:
            return self._failed("provider", error)
        listed = _object(answer).get("data")
        ids = (one.get("id") for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()
        return frozenset(name for name in ids if isinstance(name, str))

    def check_answer(self, name: str, path: str, body: dict[str, Any], done: str) -> Check:
        """Send one request and return the check of its answer."""
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._base}{path}", json.dumps(body).encode(), headers)  # noqa: S310 - as above
        try:
            answer = self._send(request)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(name, error)
        except (OSError, ValueError, InvalidURL, HTTPException) as error:
            return self._failed(name, error)
        if not (values := _object(answer)) and answer.strip() != b"{}":
            return Check(
                name, "failed", f"{self._base} does not answer with JSON", f"correct {self._target.url_setting}"
            )
        if values.get("error"):
            remedy = f"look at its log, or correct {self._target.url_setting}"
            return Check(name, "failed", f"{self._base} answers with an error: {cut(_error_text(values))}", remedy)
        return Check(name, "ok", f"{self._base} {done}")

    def _send(self, request: urllib.request.Request) -> bytes:
        until = time.monotonic() + _TIMEOUT_SECONDS
        answer = b""
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_SECONDS) as response:
            while len(answer) < _MAX_BYTES and (part := response.read1(65_536)):
                answer += part
                if time.monotonic() > until:
                    raise TimeoutError("it did not finish its answer in time")
        return answer

    def _failed(self, name: str, error: Exception) -> Check:
        if isinstance(error, OSError):
            found = f"{self._base} does not answer: {getattr(error, 'reason', error)}"
            return Check(name, "failed", found, f"start it, or correct {self._target.url_setting}")
        if isinstance(error, HTTPException) and not isinstance(error, InvalidURL):  # its text is what the server sent
            found = f"{self._base} does not answer with HTTP ({type(error).__name__})"
            return Check(name, "failed", found, f"correct {self._target.url_setting}")
        return _invalid_target(name, self._target)  # its text quotes the URL, or the header with the key

    def _refused(self, name: str, error: urllib.error.HTTPError) -> Check:
        code, base = error.code, self._base
        if code in {401, 403}:
            return Check(name, "failed", f"{base} refuses the key ({code})", f"correct {self._target.key_setting}")
        if 300 <= code < 400:  # noqa: PLR2004 - redirects
            found = f"{base} answers with a redirect ({code}), which the check does not follow"
            return Check(
                name, "warning", found, f"set {self._target.url_setting} to the address that the redirect leads to"
            )
        why = _why(error)
        if code == 429:  # noqa: PLR2004 - too many requests
            remedy = "wait, or raise the limits there; jobs wait by themselves, but a spent quota must be raised"
            state: CheckState = "failed" if "quota" in why else "warning"
            return Check(name, state, f"{base} answers: too many requests (429){why}", remedy)
        if code == 402:  # noqa: PLR2004 - payment required
            return Check(name, "failed", f"{base} requires payment (402){why}", "add credit there")
        if code == 404:  # noqa: PLR2004 - not found
            remedy = f"name a model that it serves, or correct {self._target.url_setting}"
            return Check(name, "failed", f"{base} has no such path or model (404){why}", remedy)
        if code >= 500:  # noqa: PLR2004 - the server's own errors
            remedy = f"look at its log and restart it, or correct {self._target.url_setting}"
            return Check(name, "failed", f"{base} answers with a server error ({code}){why}", remedy)
        return Check(
            name, "warning", f"{base} answers, but refuses a short question ({code}){why}", "send it a question by hand"
        )


def _object(answer: bytes) -> dict[str, Any]:
    try:
        values = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _error_text(values: dict[str, Any]) -> str:
    error = values.get("error")
    text = error.get("message") or error.get("code") if isinstance(error, dict) else error
    return redact_text(" ".join(str(text).split()))


def _why(error: urllib.error.HTTPError) -> str:
    """Return the error text of the server, shortened and without anything that looks like a secret."""
    try:
        values = _object(error.read(_MAX_BYTES))
    except (OSError, HTTPException, ValueError):
        return ""
    return f": {cut(_error_text(values))}" if values.get("error") else ""


def is_served(model: str, listed: frozenset[str]) -> bool:
    """Return whether a server with this list serves ``model``, by the rule of the workers."""
    try:
        require_served(model, listed, server="")
    except Permanent:
        return False
    return True


def _invalid_target(name: str, target: AskedServer) -> Check:
    found = "the address is not a valid URL, or the key cannot be sent in a header"
    return Check(name, "failed", found, f"correct {target.url_setting}, or {target.key_setting}")


def _authorization(target: AskedServer) -> str:
    """Return the header that the client of the workers would send: credentials in the URL, else the key."""
    parts = urlsplit(target.base_url)
    if not parts.hostname:
        raise ValueError("the URL has no host")
    if parts.username is None:
        return f"Bearer {target.key}"
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"
