"""What a file or a request is refused for, each as one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager

from workers.runtime.refusals import Refusal, quoted

_MOST_NAMES = 30


class Unreadable(Refusal, ValueError):
    """The file as a whole cannot be ingested; the line says why and what would mend it."""


@contextmanager
def naming_file(name: str) -> Iterator[None]:
    """Let what the block refuses name the file."""
    try:
        yield
    except Unreadable as error:
        raise Unreadable(f"{name}: {error}") from None


def listed(names: list[str]) -> str:
    """Return column names as an error lists them."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(quoted(name) for name in names[:_MOST_NAMES]) + more
