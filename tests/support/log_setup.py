"""Restore the set-up of logging after a test changed it, because it belongs to the whole process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from config.logging import REQUESTS


@contextmanager
def restored_logging() -> Iterator[None]:
    """Restore handlers and levels at the end. A handler with the captured output of one test fails in the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()
        root.handlers[:], root.level = handlers, level
        requests = logging.getLogger(REQUESTS)
        requests.handlers.clear()
        requests.propagate = True
        for name in logging.root.manager.loggerDict:
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
