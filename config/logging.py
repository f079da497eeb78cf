"""Structured logs for every process: JSON lines for collectors, a readable line on a terminal.

Our own events (structlog) and those of libraries (standard logging) take the same road: context merged, times in
UTC, secrets masked, payloads dropped, repeated complaints counted instead of repeated. Logs go to standard error;
standard output belongs to a command's result.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.redaction import redact_mapping

Style = Literal["auto", "json", "console"]

REPEAT_SECONDS = 30.0
_REMEMBERED_EVENTS = 1_000

# Below these levels the libraries log bodies (SQL parameters, prompts) or one line per carried message.
_QUIET = {
    "alembic": logging.INFO,
    "amqp": logging.WARNING,
    "asyncio": logging.INFO,
    "celery.app.trace": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "httpcore2": logging.WARNING,
    "httpx2": logging.WARNING,
    "kombu": logging.INFO,
    "openai": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "tornado.access": logging.WARNING,
}


class RepeatFilter(logging.Filter):
    """Let one identical warning per ``seconds`` through; the next one says how many were suppressed.

    Keeps a lost Postgres or Redis from flooding the log. Identical means: the same logger, level and event, whatever
    the values beside it. Events of one job (with a ``job_id``) and anything below a warning always pass.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._monotonic = monotonic
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}  # key: (passed at, suppressed since)

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.msg if isinstance(record.msg, dict) else None
        if record.levelno < logging.WARNING or (ours and "job_id" in ours):
            return True
        key = (record.name, record.levelno, str(ours["event"] if ours else record.msg))
        now = self._monotonic()
        passed_at, suppressed = self._seen.get(key, (now - self._seconds, 0))
        if now - passed_at < self._seconds:
            self._seen[key] = (passed_at, suppressed + 1)
            return False
        if len(self._seen) >= _REMEMBERED_EVENTS:
            self._seen.clear()  # events are meant to be few and fixed; a stray one must not cost memory for ever
        self._seen[key] = (now, 0)
        if suppressed:
            record.__dict__["suppressed"] = suppressed
        return True


def redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets and drop payloads (a structlog processor)."""
    return redact_mapping(event)


def run_named(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Spell out the run that an event belongs to (a structlog processor): its stage, job, version and attempt.

    A worker binds one value per run, whose parts are only looked at when something is logged.
    """
    run = event.pop("run", None)
    if run is None:
        return event
    stage, job_id, version, attempt = run
    return {"stage": stage, "job_id": str(job_id), "version": version, "attempt": attempt, **event}


def _head_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what a reader looks for first; the context follows."""
    head = ("timestamp", "level", "event", "logger")
    return {**{key: event[key] for key in head if key in event}, **event}


def _renderers(style: Style, stream: TextIO) -> list[Processor]:
    if style == "json" or (style == "auto" and not stream.isatty()):
        return [_head_first, structlog.processors.JSONRenderer(ensure_ascii=False)]
    colors = stream.isatty() and "NO_COLOR" not in os.environ
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def configure(style: Style = "auto", level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send every log of this process to ``stream`` (standard error) in one style; calling it again replaces the first.

    ``auto`` is the console style on a terminal, else JSON lines. Values bound with ``structlog.contextvars`` (the
    ``run``: stage, job_id, version, attempt) appear in every event of that context, also in those of libraries.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        run_named,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a logger made before this call must follow it
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ExtraAdder(allow=["suppressed"]),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # never its variants with locals: they hold payloads
                redacted,
                *_renderers(style, stream),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)
