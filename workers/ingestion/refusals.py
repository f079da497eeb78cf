"""The refusals of files, each one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager

from workers.runtime.refusals import Refusal, quoted

_MAX_NAMES = 30


class Unreadable(Refusal, ValueError):
    """The file as a whole cannot be ingested. The line gives the reason and a remedy."""


@contextmanager
def naming_file(name: str) -> Iterator[None]:
    """Put the file's name before an Unreadable that the block raises."""
    try:
        yield
    except Unreadable as error:
        raise Unreadable(f"{name}: {error}") from None


def quote_names(names: list[str]) -> str:
    """Return column names as a list for an error message."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(quoted(name) for name in names[:_MAX_NAMES]) + more
