"""Read and write what commands about models share: keys, steps, scopes, money, tokens."""

import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.session import in_session
from cli.values import parse_age, parse_time
from workers.operations import projects
from workers.runtime.refusals import Problem, Refusal, quoted

Key = Annotated[
    bool, typer.Option("--key", help="Read its key from standard input; at a terminal it is asked for, unseen.")
]
KeyEnv = Annotated[str | None, typer.Option(metavar="VARIABLE", help="Take its key from this environment variable.")]
Provider = Annotated[str | None, typer.Option(help="Name of a provider.")]
Model = Annotated[str | None, typer.Option(help="Name of a model, as it is asked for.")]
Stage = Annotated[str | None, typer.Option(help="Such as scoring.score.")]
Project = Annotated[str | None, typer.Option(metavar="NAME|ID")]
Since = Annotated[str | None, typer.Option(metavar="AGE|TIME", help="Only since then: 24h, 7d, or ISO 8601.")]
Until = Annotated[str | None, typer.Option(metavar="AGE|TIME", help="Only up to then.")]

_STEP_NUMBERS = frozenset({"max_tokens", "context_tokens"})
_STEP_PARTS = ("max_tokens", "context_tokens", "document_prefix", "query_prefix")
_SMALL = Decimal("0.995")


def read_key(*, key: bool, key_env: str | None, needed: bool) -> str | None:
    """Return a provider's key as the person hands it over, never as an argument; None where none is wanted."""
    if key_env is not None:
        if not (value := os.environ.get(key_env)):
            raise Refusal(f"environment variable {key_env} is not set")
        return value
    if not key and not needed:
        return None
    value = getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not value:
        raise Refusal("key must have a value; it is read from standard input, or with --key-env from the environment")
    return value


def parse_step(text: str) -> dict[str, Any]:
    """Return the step that ``PROVIDER/MODEL[,max_tokens=N][,…]`` says."""
    asked, *more = text.split(",")
    provider, slash, model = asked.partition("/")
    if not slash or not provider or not model:
        raise Refusal(Problem("step", "must be PROVIDER/MODEL, such as openai/gpt-4o-mini", quoted(text)))
    step: dict[str, Any] = {"provider": provider, "model": model}
    for part in more:
        name, equals, value = part.partition("=")
        if not equals or name not in _STEP_PARTS:
            rule = f"may say {', '.join(f'{one}=…' for one in _STEP_PARTS)} behind the model"
            raise Refusal(Problem("step", rule, quoted(part)))
        step[name] = value
        if name in _STEP_NUMBERS:
            try:
                step[name] = int(value)
            except ValueError:
                raise Refusal(Problem(f"step's {name}", "must be a whole number", quoted(value))) from None
    return step


def parse_scope(text: str) -> dict[str, str | None]:
    """Return whose calls a budget is about: ``all``, ``stage:S``, ``project:NAME``, ``tenant:ID``, ``profile:ID``."""
    scope, _, value = text.partition(":")
    if scope == "project" and value:
        value = str(in_session(lambda session: projects.find(session, value)).id)
    known = ("all", "tenant", "project", "profile", "stage")
    if scope not in known:
        raise Refusal(Problem("scope", f"must be all, or one of {', '.join(known[1:])} with :VALUE", quoted(text)))
    return {"scope": scope, "scope_value": value or None}


def project_id(name_or_id: str | None) -> UUID | None:
    """Return the id of the project that is named."""
    return None if name_or_id is None else in_session(lambda session: projects.find(session, name_or_id)).id


def project_names() -> Mapping[UUID, str]:
    """Return the names of all projects."""
    return {one.id: one.name for one in in_session(projects.list_projects)}


def parse_since(text: str | None) -> Any:
    """Return the moment that an age or a time means."""
    if text is None:
        return None
    if text and text[-1] in "smhdw" and text[:-1].isdigit():
        return datetime.now(UTC) - parse_age(text)
    return parse_time(text)


def parse_amount(field: str, text: str | None) -> str | None:
    """Return an amount of dollars as a plain number."""
    if text is None:
        return None
    try:
        return str(Decimal(text.strip().removeprefix("$")))
    except InvalidOperation:
        raise Refusal(Problem(field, "must be an amount of US dollars, such as 2.50", quoted(text))) from None


def parse_list(field: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the words of a list with commas, each of them known and given once."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise Refusal(Problem(field, f"must be of {', '.join(known)}", quoted(word)))
        if words.count(word) > 1:
            raise Refusal(f"{field} names {word} twice")
    return words


def dollars(amount: Decimal | None) -> str:
    """Return an amount as a person reads it: cents from one dollar on, else the first digits that count."""
    if amount is None:
        return "unknown"
    if amount == 0 or amount >= _SMALL:
        return f"${amount:,.2f}"
    digits = min(max(2 - amount.adjusted(), 2), 12)
    return f"${amount:.{digits}f}".rstrip("0") if digits > 2 else f"${amount:.2f}"  # noqa: PLR2004 - cents


def rate(amount: Decimal | None) -> str:
    """Return dollars per million tokens."""
    return "unknown" if amount is None else f"${amount.normalize():f}"
