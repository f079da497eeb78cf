"""Why this room refuses, as exceptions with one clear line each."""

from pydantic import ValidationError

_SHOWN = 80


class OperationsError(ValueError):
    """What was asked breaks a rule; the line names the field, the rule and the value."""


class NotFoundError(LookupError):
    """Nothing has that name or id (any more)."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownProject(NotFoundError):
    """No project has that name or id."""


class UnknownRecord(NotFoundError):
    """No record has that id."""


class UnknownWindow(NotFoundError):
    """No bonus window has that id."""


def refusal(error: ValidationError) -> OperationsError:
    """Return the first thing wrong as our error."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "input"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return OperationsError(f"{field} {message[:1].lower()}{message[1:]}, got {shown(first['input'])}")


def shown(value: object) -> str:
    """Return ``value`` as an error quotes it: never the whole of a long one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
