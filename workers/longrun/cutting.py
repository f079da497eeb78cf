"""Cut items into requests for embeddings. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from workers.runtime.handler.ports import EmbeddingLimits
from workers.runtime.handler.tokens import tokens_of

T = TypeVar("T")


def cut(items: Iterable[T], text: Callable[[T], str], *, limits: EmbeddingLimits) -> Iterator[list[T]]:
    """Yield the items of each request, in order: as few requests as the limits of texts and estimated tokens allow.

    If one text alone exceeds the limit of tokens, it gets its own request.
    """
    request: list[T] = []
    total = 0
    for item in items:
        tokens = tokens_of(text(item))
        if request and (len(request) >= limits.texts or total + tokens > limits.tokens):
            yield request
            request, total = [], 0
        request.append(item)
        total += tokens
    if request:
        yield request
