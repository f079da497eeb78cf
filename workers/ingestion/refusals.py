"""What a file or a request is refused for, each as one clear line."""

from workers.runtime.refusals import Kind, Refusal, quoted

_MOST_NAMES = 30


class Unreadable(Refusal, ValueError):
    """The file as a whole cannot be ingested; the line says why and what would mend it."""

    kind = Kind.FAILED


def listed(names: list[str]) -> str:
    """Return column names as an error lists them."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(quoted(name) for name in names[:_MOST_NAMES]) + more
