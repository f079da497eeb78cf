"""Structured logs for every process: JSON lines for collectors, a readable line on a terminal.

Our own events (structlog) and those of libraries (standard logging) take the same road: context merged, times in
UTC, secrets masked, payloads dropped, repeated complaints counted instead of repeated. Logs go to standard error;
standard output belongs to a command's result.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.redaction import redact_mapping

Style = Literal["auto", "json", "console"]

REPEAT_SECONDS = 30.0
_REMEMBERED_EVENTS = 1_000
# Of one event in that time. Who sends a thousand different messages that are all refused finds them in Postgres.
MOST_CONTENTS = 100
_NO_CONTENT = frozenset({"timestamp", "level", "logger", "event"})
_ID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|0x[0-9a-f]+", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")

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
    """Let one warning of the same content per ``seconds`` through; the next one says how many were suppressed.

    Keeps a lost Postgres or Redis from flooding the log. The same content means: the same logger, level and event, and
    the same texts beside it, whatever its numbers, times and ids. Events of one job (with a ``job_id``) and anything
    below a warning always pass. Of one event no more than :data:`MOST_CONTENTS` contents pass in that time.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.msg if isinstance(record.msg, dict) else None
        if record.levelno < logging.WARNING or (ours and "job_id" in ours):
            return True
        key = (record.name, record.levelno, str(ours["event"] if ours else record.msg))
        if key not in self._kinds and len(self._kinds) >= _REMEMBERED_EVENTS:
            self._kinds.clear()  # events are meant to be few and fixed; a stray one must not cost memory for ever
        kind = self._kinds.setdefault(key, _Kind())
        passes, suppressed = kind.count(_content(record, ours), self._monotonic(), self._seconds)
        if suppressed:
            record.__dict__["suppressed"] = suppressed
        return passes


class _Kind:
    """What was said lately in one event."""

    __slots__ = ("_contents", "_others")

    def __init__(self) -> None:
        self._contents: dict[str, tuple[float, int]] = {}  # passed at, suppressed since
        self._others = 0

    def count(self, content: str, now: float, seconds: float) -> tuple[bool, int]:
        """Tell whether what is said now passes, and how many were suppressed before it."""
        if content in self._contents:
            passed_at, suppressed = self._contents[content]
            if now - passed_at < seconds:
                self._contents[content] = (passed_at, suppressed + 1)
                return False, 0
            self._contents[content] = (now, 0)
            return True, suppressed
        if len(self._contents) >= MOST_CONTENTS:
            self._forget(now, seconds)
        if len(self._contents) >= MOST_CONTENTS:
            self._others += 1
            return False, 0
        suppressed, self._others = self._others, 0
        self._contents[content] = (now, 0)
        return True, suppressed

    def _forget(self, now: float, seconds: float) -> None:
        """Forget what is long ago; what was suppressed of it is told with the next."""
        for content, (passed_at, suppressed) in list(self._contents.items()):
            if now - passed_at >= seconds:
                del self._contents[content]
                self._others += suppressed


def _content(record: logging.LogRecord, ours: Mapping[str, object] | None) -> str:
    """Return the texts of a record: what makes it another than the one before. Bounded, and without its numbers."""
    if ours is not None:
        values = [f"{key}={_said(value)}" for key, value in ours.items() if key not in _NO_CONTENT]
    else:
        arguments = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        # A library may write its numbers into its texts: the seconds to its next try, a port, an address.
        values = [_NUMBER.sub("#", _said(value)) for value in arguments]
    return " ".join(values)[:1_000]


def _said(value: object) -> str:
    return _ID.sub("#", str(value)) if isinstance(value, (str, BaseException)) else ""


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
