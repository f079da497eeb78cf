"""Kombu's Redis transport, made safe: an item of a queue that is not a message does not end the worker.

Kombu parses a message's envelope before it calls the consumer. Without this module an invalid item raises in Celery's
event loop and ends one worker after the other.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import structlog
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

from workers.runtime.handler.errors import describe
from workers.runtime.worker.dead_letters import DeadLetter
from workers.transport.consumer import UNREADABLE_ERRORS

log = structlog.get_logger(__name__)


class CarefulChannel(Channel):
    """Refuses items that it cannot read, with the reason. ``receivers`` counts the receivers of its last PUBLISH.

    ``refuse`` stores a refused item. A process has at most one worker runtime, which sets it.
    """

    receivers = 0
    refuse: ClassVar[Callable[[DeadLetter], object] | None] = None
    _taken: tuple[bytes, bytes] | None = None

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver the item taken from a queue. An item that is not an envelope counts as delivered."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # missing in its type stub
        except UNREADABLE_ERRORS as error:
            queue, item = self._taken or (b"", b"")
            # The queue's key is the queue's name, a separator and the priority.
            name = queue.decode("utf-8", "replace").partition("\x06")[0] or None
            letter = DeadLetter(f"an envelope must be Celery's, in JSON: {describe(error)}", item, queue=name)
            if CarefulChannel.refuse is None:
                log.warning("message_refused", reason=letter.reason, queue=name)
            else:
                CarefulChannel.refuse(letter)
            return True

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Return a client that notes the receivers of each PUBLISH and the item of each BRPOP."""
        client = super()._create_client(asynchronous)  # type: ignore[misc]  # missing in its type stub
        client.set_response_callback("PUBLISH", self._note_receivers)
        client.set_response_callback("BRPOP", self._note_taken)
        return client

    def _note_taken(self, taken: Any, **_: Any) -> Any:
        """Remember the item taken from a queue. If it is not an envelope, it is stored unchanged."""
        self._taken = tuple(taken) if taken else None
        return taken

    def _note_receivers(self, receivers: int, **_: Any) -> int:
        self.receivers = receivers
        return receivers


class CarefulTransport(Transport):
    """Kombu's Redis transport with careful channels."""

    Channel = CarefulChannel


def use_careful_transport() -> None:
    """Make every connection of this process to ``redis://`` and ``rediss://`` use this transport."""
    path = f"{__name__}:{CarefulTransport.__name__}"
    TRANSPORT_ALIASES.update(redis=path, rediss=path)
    for name in ("redis", "rediss"):  # kombu caches the transport of a name at the first connection
        vars(transport)["_transport_cache"].pop(name, None)  # there is no public way to clear the cache
