"""Cut a connection that gives no answer: whatever is between it and Postgres may acknowledge each byte for ever."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event


class Line:
    """The one connection of an engine that is used by one thread; its waits cannot be bounded otherwise."""

    def __init__(self, engine: Engine) -> None:
        self._connection: Any = None
        event.listen(engine, "connect", self._note, insert=True)  # before the driver asks anything on it

    def _note(self, connection: Any, _record: object) -> None:
        self._connection = connection

    @contextmanager
    def cut_after(self, seconds: float) -> Iterator[None]:
        """Cut the connection each time that the block lasts so long: what waits hears that the connection is gone."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(seconds):
                self._cut()

        threading.Thread(target=watch, name="line", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _cut(self) -> None:
        # By a second handle: the first is the driver's, which closes it when it hears of the end. Or has by now.
        with suppress(Exception), socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)
