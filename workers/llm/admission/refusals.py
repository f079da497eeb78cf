"""Say what keeps a call back, for how long, and what helps. Pure."""

import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from workers.llm.calls import NotAdmittedError

# If nobody knows when there is room again: calls under way end when they end.
UNKNOWN_DELAY = timedelta(seconds=2)
# What a person must change first is looked at again after this.
PERSON_DELAY = timedelta(minutes=5)
# A budget's window may end in a month; a person may raise the budget at any time.
MAX_BUDGET_DELAY = timedelta(minutes=15)

_MEASURES = {
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "requested_tokens": "requested tokens",
}
# What a call has taken of these comes back with time only, not with its end.
KEPT_MEASURES = frozenset({"requests", "requested_tokens"})
_WINDOWS = {1: "second", 60: "minute", 3_600: "hour", 86_400: "day", 604_800: "week"}


def refusal_of(cause: Mapping[str, Any]) -> NotAdmittedError:
    """Return the error for what ``llm.admit`` says of a limit, a cooldown or a budget."""
    match cause["kind"]:
        case "limit":
            return _of_limit(cause)
        case "budget":
            return _of_budget(cause)
        case _:
            name = _called(cause.get("provider"), cause.get("model") or None)
            return NotAdmittedError(
                f"{name} has refused calls ({cause['reason']}): nobody calls it for {_duration(_wait(cause))}",
                delay=_wait(cause),
                limit=f"cooldown of {name}",
                others_decide=False,
            )


def limit_name(cause: Mapping[str, Any]) -> str:
    """Return the name of a limit: ``tokens per minute of model gpt-5 of provider openai, stage scoring.score``."""
    measure, window = cause["measure"], cause.get("window_seconds")
    per = "calls at once" if measure == "concurrency" else f"{_MEASURES.get(measure, measure)} per {_window(window)}"
    parts = [f"{per} of {_called(cause.get('provider'), cause.get('model'))}"]
    if cause.get("stage"):
        parts.append(f"stage {cause['stage']}")
    if owner := (cause.get("subject") or cause.get("owner_id")):
        parts.append(f"owner {owner}")
    return ", ".join(parts)


def _of_limit(cause: Mapping[str, Any]) -> NotAdmittedError:
    name, most = limit_name(cause), cause["at_most"]
    key = f"limit {cause['id']} {cause.get('subject') or ''}"
    if cause.get("never"):
        return NotAdmittedError(
            f"{name}: at most {most:,}, and this call alone needs {cause['need']:,}; "
            f"raise the limit or lower max_tokens",
            delay=PERSON_DELAY,
            limit=name,
            key=f"{key} {cause['need']}",
            others_decide=False,
        )
    return NotAdmittedError(
        f"{name}: {cause['used']:,} of {most:,} used",
        delay=_wait(cause),
        limit=name,
        gives_back=cause["measure"] not in KEPT_MEASURES,
        key=key,
    )


def _of_budget(cause: Mapping[str, Any]) -> NotAdmittedError:
    name = f"budget {cause['name']!r}"
    batch_may = cause["then"] == "batch"
    if cause.get("unpriced"):
        model, provider = cause["model"], cause["provider"]
        return NotAdmittedError(
            f"{name} is in dollars, and the price of model {model!r} of provider {provider!r} is not known; "
            f"set it with `gristmill llm prices set --provider {provider} --model {shlex.quote(model)} --input USD "
            f"--output USD`, per million tokens",
            delay=PERSON_DELAY,
            limit=name,
            is_budget=True,
            batch_may=batch_may,
            key=f"{name} {provider} {model}",
        )
    spent = []
    if cause.get("usd") is not None:
        spent.append(f"${float(cause['used_usd']):.2f} of ${float(cause['usd']):.2f}")
    if cause.get("tokens") is not None:
        spent.append(f"{int(cause['used_tokens']):,} of {int(cause['tokens']):,} tokens")
    until = cause.get("until")
    ends = f"until {datetime.fromisoformat(until):%Y-%m-%d %H:%M %Z}" if until else "for good"
    return NotAdmittedError(
        f"{name} has no room for this call: {' and '.join(spent)} used {ends}; raise it or wait",
        delay=min(_wait(cause), MAX_BUDGET_DELAY),
        limit=name,
        is_budget=True,
        batch_may=batch_may,
        gives_back=cause.get("wait") is None and until is not None,
        key=name,
    )


def _wait(cause: Mapping[str, Any]) -> timedelta:
    wait = cause.get("wait")
    return UNKNOWN_DELAY if wait is None else timedelta(seconds=float(wait))


def _called(provider: object, model: object) -> str:
    if model and provider:
        return f"model {model} of provider {provider}"
    return f"model {model}" if model else f"provider {provider}" if provider else "all providers"


def _window(seconds: int | None) -> str:
    if seconds in _WINDOWS:
        return _WINDOWS[seconds]
    return _duration(timedelta(seconds=seconds or 0))


def _duration(time: timedelta) -> str:
    seconds = time.total_seconds()
    for size, word in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:,.1f} seconds".replace(".0 ", " ")
