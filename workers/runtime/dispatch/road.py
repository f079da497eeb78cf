"""How the dispatcher reaches the workers: the interface of the broker."""

from collections.abc import Sequence
from typing import Protocol

from workers.runtime.handler.registry import Stage
from workers.runtime.store.dispatch import Picked


class Road(Protocol):
    """The broker: it delivers a message at least once and in any order, and it may lose all messages."""

    async def publish(self, stage: Stage, batch: Sequence[Picked]) -> None:
        """Publish one batch to the workers; raise if that fails or takes more than a few seconds."""

    async def lost_everything(self) -> bool:
        """Tell whether the broker lost its data since the last call; raise if it cannot be reached."""

    async def is_empty(self, queue: str) -> bool:
        """Tell whether no message of ``queue`` waits for a worker."""
