"""Cut what is to be embedded into requests. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from workers.runtime.handler.ports import EmbeddingLimits

T = TypeVar("T")

# As a provider would count them, near enough for a limit: no text has fewer bytes per token by much.
_BYTES_PER_TOKEN = 3


def batches(items: Sequence[T], text: Callable[[T], str], *, limits: EmbeddingLimits) -> list[list[T]]:
    """Return ``items`` in order, in as few batches as keep to a request's limits of texts and, about, of tokens."""
    made: list[list[T]] = []
    room = 0
    for item in items:
        size = -(-len(text(item).encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
        if not made or len(made[-1]) >= limits.texts or size > room:
            made.append([])
            room = limits.tokens
        made[-1].append(item)
        room -= size
    return made
