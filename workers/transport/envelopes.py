"""Kombu's Redis transport, except that what is no message at all does not end the worker that takes it off its queue.

Kombu reads a message's envelope before any consumer hears of it: garbage in the list itself would raise in Celery's
event loop, end one worker, and then the next.
"""

from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

from workers.transport.consumer import UNREADABLE

log = structlog.get_logger(__name__)


class CarefulChannel(Channel):
    """Discards what it cannot read, with the reason; knows how many heard what it last published."""

    hearers = 0

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver what came off a queue; an item that is no envelope counts as delivered."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # its stub has forgotten it
        except UNREADABLE as error:
            log.warning("message_refused", rule="an envelope is Celery's, in JSON", error=type(error).__name__)
            return True

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Return a client of this channel, which is told with every PUBLISH how many there were to hear it."""
        client = super()._create_client(asynchronous)  # type: ignore[misc]  # its stub has forgotten it
        client.set_response_callback("PUBLISH", self._note_hearers)
        return client

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
