"""Find the items that a provider refuses in a request of many items."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from workers.runtime.handler.errors import Permanent

T = TypeVar("T")

# Any model can embed this text. If the provider refuses it, the items are not the cause.
PROBE = "text"


async def isolate_refused(
    items: Sequence[T],
    send: Callable[[Sequence[T]], Awaitable[None]],
    *,
    probe: Callable[[], Awaitable[object]],
    refuse: Callable[[T, Permanent], None],
) -> None:
    """Send ``items`` together. If they are refused, halve them until each refused item is alone.

    ``refuse`` is called for each refused item. ``probe`` is called before halving; it raises if the provider refuses
    every request.
    """
    try:
        await send(items)
    except Permanent as error:
        await probe()
        await _halve(items, error, send=send, refuse=refuse)


async def _halve(
    items: Sequence[T],
    error: Permanent,
    *,
    send: Callable[[Sequence[T]], Awaitable[None]],
    refuse: Callable[[T, Permanent], None],
) -> None:
    if len(items) == 1:
        refuse(items[0], error)
        return
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        try:
            await send(half)
        except Permanent as again:
            await _halve(half, again, send=send, refuse=refuse)
