"""What a file or a request is refused for, each as one clear line."""

_SHOWN = 80
_MOST_NAMES = 30


class Unreadable(ValueError):
    """The file as a whole cannot be ingested; the line says why and what would mend it."""


def shown(text: str) -> str:
    """Return ``text`` as an error quotes it: never the whole of a long one."""
    quoted = repr(text)
    return quoted if len(quoted) <= _SHOWN else f"{quoted[: _SHOWN - 1]}…"


def listed(names: list[str]) -> str:
    """Return column names as an error lists them."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shown(name) for name in names[:_MOST_NAMES]) + more
