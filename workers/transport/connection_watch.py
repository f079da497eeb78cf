"""Shut down a connection to Postgres that gives no answer.

No other timeout covers this: a proxy in between may acknowledge each byte and never answer.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event


class ConnectionWatch:
    """Watches the only connection of an engine that one thread uses."""

    def __init__(self, engine: Engine) -> None:
        self._connection: Any = None
        event.listen(engine, "connect", self._note, insert=True)  # before the driver uses the connection

    def _note(self, connection: Any, _record: object) -> None:
        self._connection = connection

    @contextmanager
    def shut_down_after(self, seconds: float) -> Iterator[None]:
        """Shut the connection down every ``seconds`` while the block runs. A waiting call then gets an error."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(seconds):
                self._shut_down()

        threading.Thread(target=watch, name="connection-watch", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _shut_down(self) -> None:
        # Use a duplicate file descriptor: the driver closes its own, and may already have closed it.
        with suppress(Exception), socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
