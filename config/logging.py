"""Structured logs for every process: JSON lines for collectors, a readable line on a terminal.

Our own events (structlog) and those of libraries (standard logging) are processed in the same way: context merged,
times in UTC, secrets masked, payloads dropped, repeated warnings counted. Logs go to standard error; standard output
is for a command's result.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.redaction import redact_mapping

Style = Literal["auto", "json", "console"]

# The logger of requests. In the JSON style it has a handler of its own, which takes a mapping as the message.
REQUESTS = "gateway.requests"
REPEAT_SECONDS = 30.0
_MAX_REMEMBERED_EVENTS = 1_000
# The most different contents of one event within REPEAT_SECONDS. All refused messages are in Postgres.
MAX_CONTENTS_PER_EVENT = 100
_NO_CONTENT = frozenset({"timestamp", "level", "logger", "event"})
_ID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|0x[0-9a-f]+", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")

# Below these levels the libraries log payloads (SQL parameters, prompts) or one line per message.
_LIBRARY_LEVELS = {
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
    "uvicorn": logging.WARNING,
}


class RepeatFilter(logging.Filter):
    """Pass one warning of the same content per ``seconds``. The next one says how many were suppressed.

    Without this filter a lost Postgres or Redis floods the log. Two warnings have the same content if their logger,
    level, event and texts are the same; numbers, times and ids may differ. Events of one job (with a ``job_id``) and
    levels below warning always pass. At most :data:`MAX_CONTENTS_PER_EVENT` contents of one event pass in that time.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, int, str], _RecentEvents] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.msg if isinstance(record.msg, dict) else None
        if record.levelno < logging.WARNING or (ours and "job_id" in ours):
            return True
        key = (record.name, record.levelno, str(ours["event"] if ours else record.msg))
        if key not in self._kinds and len(self._kinds) >= _MAX_REMEMBERED_EVENTS:
            self._kinds.clear()  # there should be few fixed events; variable ones must not use memory without bound
        kind = self._kinds.setdefault(key, _RecentEvents())
        passes, suppressed = kind.count(_content(record, ours), self._monotonic(), self._seconds)
        if suppressed:
            record.__dict__["suppressed"] = suppressed
        return passes


class _RecentEvents:
    """The recent contents of one event."""

    __slots__ = ("_contents", "_others")

    def __init__(self) -> None:
        self._contents: dict[str, tuple[float, int]] = {}  # passed at, suppressed since
        self._others = 0

    def count(self, content: str, now: float, seconds: float) -> tuple[bool, int]:
        """Return whether ``content`` passes now, and how many were suppressed before it."""
        if content in self._contents:
            passed_at, suppressed = self._contents[content]
            if now - passed_at < seconds:
                self._contents[content] = (passed_at, suppressed + 1)
                return False, 0
            self._contents[content] = (now, 0)
            return True, suppressed
        if len(self._contents) >= MAX_CONTENTS_PER_EVENT:
            self._forget(now, seconds)
        if len(self._contents) >= MAX_CONTENTS_PER_EVENT:
            self._others += 1
            return False, 0
        suppressed, self._others = self._others, 0
        self._contents[content] = (now, 0)
        return True, suppressed

    def _forget(self, now: float, seconds: float) -> None:
        """Remove old contents. Their suppressed counts are reported with the next event that passes."""
        for content, (passed_at, suppressed) in list(self._contents.items()):
            if now - passed_at >= seconds:
                del self._contents[content]
                self._others += suppressed


def _content(record: logging.LogRecord, ours: Mapping[str, object] | None) -> str:
    """Return the texts of a record, without numbers and up to 1,000 characters, to compare it with other records."""
    if ours is not None:
        values = [f"{key}={_without_ids(value)}" for key, value in ours.items() if key not in _NO_CONTENT]
    else:
        arguments = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        # A library may write numbers into its texts: the seconds until its next try, a port, an address.
        values = [_NUMBER.sub("#", _without_ids(value)) for value in arguments]
    return " ".join(values)[:1_000]


def _without_ids(value: object) -> str:
    return _ID.sub("#", str(value)) if isinstance(value, (str, BaseException)) else ""


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets and drop payloads (a structlog processor)."""
    return redact_mapping(event)


def add_run(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the stage, job, version and attempt of an event's run (a structlog processor).

    A worker binds one value per run, and this function splits it only if something is logged.
    """
    run = event.pop("run", None)
    if run is None:
        return event
    stage, job_id, version, attempt = run
    return {"stage": stage, "job_id": str(job_id), "version": version, "attempt": attempt, **event}


class RequestFormatter(logging.Formatter):
    """Renders a record with a mapping as one line of JSON, without the steps that other events need.

    Only for values that are known to be safe: there are as many requests as jobs, and the usual steps cost as much as
    the rest of a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        time_ = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        head = {"timestamp": time_.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": "request"}
        return json.dumps({**head, "logger": record.name, **cast("dict[str, object]", record.msg)}, ensure_ascii=False)


def _head_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put time, level, event and logger first, then the context."""
    head = ("timestamp", "level", "event", "logger")
    return {**{key: event[key] for key in head if key in event}, **event}


def _is_json(style: Style, stream: TextIO) -> bool:
    return style == "json" or (style == "auto" and not stream.isatty())


def _renderers(style: Style, stream: TextIO) -> list[Processor]:
    if _is_json(style, stream):
        return [_head_first, structlog.processors.JSONRenderer(ensure_ascii=False)]
    colors = stream.isatty() and "NO_COLOR" not in os.environ
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def configure(style: Style = "auto", level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send every log of this process to ``stream`` (standard error) in one style. A second call replaces the first.

    ``auto`` is the console style on a terminal, else JSON lines. Values bound with ``structlog.contextvars`` (for
    example ``run``) appear in every event of that context, also in events of libraries.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_run,
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
        cache_logger_on_first_use=False,  # loggers made before this call must use this configuration
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ExtraAdder(allow=["suppressed"]),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # not the variants with local variables, which hold payloads
                redact_event,
                *_renderers(style, stream),
            ],
        )
    )
    requests = logging.getLogger(REQUESTS)
    requests.handlers.clear()
    requests.propagate = not _is_json(style, stream)
    if not requests.propagate:
        fast = logging.StreamHandler(stream)
        fast.setFormatter(RequestFormatter())
        requests.addHandler(fast)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, min_level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(min_level, root.level))
    logging.captureWarnings(capture=True)
