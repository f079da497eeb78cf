"""Kombu's Redis transport, except that what is no message at all does not end the worker that takes it off its queue.

Kombu reads a message's envelope before any consumer hears of it: garbage in the list itself would raise in Celery's
event loop, end one worker, and then the next.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import structlog
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

from workers.runtime.handler.errors import describe
from workers.runtime.worker.dead_letters import DeadLetter
from workers.transport.consumer import UNREADABLE

log = structlog.get_logger(__name__)


class CarefulChannel(Channel):
    """Refuses what it cannot read, with the reason; knows how many heard what it last published.

    ``refuse`` is who keeps what this process refuses: one worker runtime at most.
    """

    hearers = 0
    refuse: ClassVar[Callable[[DeadLetter], object] | None] = None
    _taken: tuple[bytes, bytes] | None = None

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver what came off a queue; an item that is no envelope counts as delivered."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # its stub has forgotten it
        except UNREADABLE as error:
            queue, item = self._taken or (b"", b"")
            # The queue's key has a priority behind a separator.
            name = queue.decode("utf-8", "replace").partition("\x06")[0] or None
            letter = DeadLetter(f"an envelope must be Celery's, in JSON: {describe(error)}", item, queue=name)
            if CarefulChannel.refuse is None:
                log.warning("message_refused", reason=letter.reason, queue=name)
            else:
                CarefulChannel.refuse(letter)
            return True

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Return a client of this channel, which is told with every PUBLISH how many there were to hear it."""
        client = super()._create_client(asynchronous)  # type: ignore[misc]  # its stub has forgotten it
        client.set_response_callback("PUBLISH", self._note_hearers)
        client.set_response_callback("BRPOP", self._note_taken)
        return client

    def _note_taken(self, taken: Any, **_: Any) -> Any:
        """Remember what came off a queue: an item that is no envelope is kept as it came."""
        self._taken = tuple(taken) if taken else None
        return taken

    def _note_hearers(self, hearers: int, **_: Any) -> int:
        self.hearers = hearers
        return hearers


class CarefulTransport(Transport):
    """Kombu's own, with careful channels."""

    Channel = CarefulChannel


def use_careful_transport() -> None:
    """Have every connection of this process to ``redis://`` and ``rediss://`` use it, under these same names."""
    path = f"{__name__}:{CarefulTransport.__name__}"
    TRANSPORT_ALIASES.update(redis=path, rediss=path)
    for name in ("redis", "rediss"):  # kombu remembers what a name meant when this process first connected
        vars(transport)["_transport_cache"].pop(name, None)  # there is no public way to have it look again
