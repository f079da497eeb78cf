"""Logs: one line per event of ours or of a library, without secrets and without floods."""

import io
import json
import logging
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from pydantic import BaseModel, SecretStr

from config.logging import MAX_CONTENTS_PER_EVENT, REQUESTS, RepeatFilter, configure
from config.redaction import redact_text
from tests.support.log_setup import restored_logging


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


class Log:
    """The log since `configure`."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def configured():
    """Configure logging to a stream; restore pytest's own set-up afterwards."""

    def configured(style="json", level="INFO", stream=None):
        stream = stream or io.StringIO()
        configure(style, level, stream=stream)
        return Log(stream)

    with restored_logging(), structlog.contextvars.bound_contextvars():
        yield configured


def test_events_of_ours_and_of_libraries_look_alike(configured):
    """Both are JSON lines with time in UTC, level, logger and the job's context."""
    ours = structlog.get_logger("workers.runtime.worker.runner")  # made before configure, like module globals
    log = configured()

    with structlog.contextvars.bound_contextvars(stage="scoring.score", job_id="7", version=2, attempt=1):
        ours.info("job_started")
        logging.getLogger("library").info("connected to %s", "db")

    context = {"stage": "scoring.score", "job_id": "7", "version": 2, "attempt": 1, "level": "info"}
    first, second = log.events
    for event in (first, second):
        assert datetime.fromisoformat(str(event.pop("timestamp"))).tzinfo == UTC
    assert first == {"event": "job_started", "logger": "workers.runtime.worker.runner", **context}
    assert second == {"event": "connected to db", "logger": "library", **context}
    assert list(json.loads(log.text.splitlines()[0]))[:4] == ["timestamp", "level", "event", "logger"]


def test_auto_is_json_in_a_pipe_and_readable_on_a_terminal(configured, monkeypatch):
    """A collector parses lines; a person reads them, in colour unless NO_COLOR is set."""
    piped = configured("auto")
    structlog.get_logger("a").info("started")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = configured("auto", stream=Terminal())
    structlog.get_logger("a").info("started")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = configured("auto", stream=Terminal())
    structlog.get_logger("a").info("started", slots=5)

    assert piped.events[0]["event"] == "started"
    assert "\x1b[" in coloured.text
    assert "[info     ] started" in plain.text
    assert "\x1b[" not in plain.text


def test_level_applies_to_all_loggers_and_payloads_are_never_logged(configured):
    """DEBUG shows our events, but not the payloads that libraries log: SQL parameters, prompts."""
    log = configured(level="DEBUG")
    structlog.get_logger("ours").debug("picked")
    for name in ("sqlalchemy.engine", "openai._base_client", "httpx2", "kombu.connection"):
        logging.getLogger(name).debug("a whole body")

    assert [event["event"] for event in log.events] == ["picked"]

    log = configured(level="ERROR")
    structlog.get_logger("ours").warning("hidden")

    assert log.text == ""


def test_payloads_and_secrets_stay_out(configured):
    """If somebody binds them by mistake, payload keys are dropped, secrets masked, and objects shown by class name."""
    log = configured()

    class Prompt(BaseModel):
        text: str = "hunter2"

    structlog.get_logger("a").info(
        "enqueued",
        payload={"x": "hunter2"},
        prompt="hunter2",
        messages=["hunter2"],
        llm_response="hunter2",
        job=Prompt(),
        api_key="hunter2",
        Authorization="Bearer hunter2",
        auth=SecretStr("hunter2"),
        raw=b"hunter2",
        nested={"prompt": "hunter2", "kept": [{"password": "hunter2"}]},
        url="redis://:hunter2@db:6379/0",
        error=ValueError("postgresql://app:hunter2@db/x is away"),
        prompt_tokens=12,
    )
    logging.getLogger("celery").error("cannot connect to %s", "redis://:hunter2@db:6379/0")

    assert "hunter2" not in log.text
    event = log.events[0]
    assert (event["job"], event["url"], event["prompt_tokens"]) == ("<Prompt>", "redis://:***@db:6379/0", 12)
    assert event["nested"] == {"kept": [{"password": "***"}]}
    assert event["error"] == "ValueError: postgresql://app:***@db/x is away"


def test_plain_values_become_json(configured):
    """Times, ids, durations and paths become JSON values."""
    log = configured()

    structlog.get_logger("a").info(
        "e", id=UUID(int=1), at=datetime(2026, 1, 1, tzinfo=UTC), took=timedelta(seconds=1.5), file=Path("a/b")
    )

    event = log.events[0]
    assert event["id"] == "00000000-0000-0000-0000-000000000001"
    assert (event["at"], event["took"], event["file"]) == ("2026-01-01T00:00:00+00:00", 1.5, "a/b")


@pytest.mark.parametrize("style", ["json", "console"])
def test_tracebacks_hold_no_locals(configured, style):
    """A traceback shows the place of an error, never its data."""
    log = configured(style)

    def fail(prompt: str) -> None:
        raise ValueError(f"cannot parse password={prompt}")

    try:
        fail("hunter" + "2")
    except ValueError:
        structlog.get_logger("a").exception("job_failed")
        logging.getLogger("library").exception("failed")

    assert log.text.count("ValueError: cannot parse password=***") == 2
    assert "hunter2" not in log.text


def test_warnings_of_python_are_logged(configured):
    """A deprecation warning in production is logged as an event."""
    log = configured()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old door", DeprecationWarning, stacklevel=1)

    assert log.events[0]["logger"] == "py.warnings"
    assert "old door" in str(log.events[0]["event"])


def test_repeated_warnings_are_counted_instead_of_repeated(configured):
    """While Postgres is away, one line per interval says so, with the number of suppressed warnings."""
    log = configured()
    clock = iter([0.0, 1.0, 29.9, 30.0, 31.0])
    (handler,) = logging.getLogger().handlers
    handler.filters[:] = [RepeatFilter(30, monotonic=lambda: next(clock))]

    for attempt in range(5):
        structlog.get_logger("store").warning("postgres_unreachable", attempt=attempt)

    assert [(event["attempt"], event.get("suppressed")) for event in log.events] == [(0, None), (3, 2)]


def test_repeated_warnings_of_libraries_count_as_one_whatever_their_values(configured):
    """Celery's warnings about reconnects differ only in their numbers."""
    log = configured()

    for seconds in (2, 4, 6):
        logging.getLogger("celery.consumer").error("cannot connect, trying again in %.2f seconds", seconds)

    assert [event["event"] for event in log.events] == ["cannot connect, trying again in 2.00 seconds"]


def test_each_reason_is_logged_and_only_its_repeats_are_counted(configured):
    """Twenty messages refused for four reasons are four lines. Other ids and numbers are not another reason."""
    log = configured()
    clock = iter([float(n) for n in range(20)] + [40.0])
    (handler,) = logging.getLogger().handlers
    handler.filters[:] = [RepeatFilter(30, monotonic=lambda: next(clock))]
    reasons = ["priority must be an integer", "due_at must be a time", "stage is required", "payload is required"]

    for number in range(20):
        structlog.get_logger("door").warning(
            "message_refused", reason=reasons[number % 4], size=number, about=f"message {UUID(int=number)}"
        )
    structlog.get_logger("door").warning("message_refused", reason=reasons[0], size=7, about=f"message {UUID(int=99)}")

    assert [(event["reason"], event.get("suppressed")) for event in log.events] == [
        *((reason, None) for reason in reasons),
        (reasons[0], 4),
    ]


def test_one_event_with_ever_new_contents_does_not_flood_the_log(configured):
    """Of a thousand different reasons a hundred are shown. The others are counted in the next event."""
    log = configured()
    clock = iter([0.0] * 1_000 + [31.0])
    (handler,) = logging.getLogger().handlers
    handler.filters[:] = [RepeatFilter(30, monotonic=lambda: next(clock))]

    for number in range(1_000):
        structlog.get_logger("door").warning("message_refused", reason=f"stage 's{number}' is not registered")
    structlog.get_logger("door").warning("message_refused", reason="another")

    assert len(log.events) == MAX_CONTENTS_PER_EVENT + 1
    assert log.events[-1]["suppressed"] == 1_000 - MAX_CONTENTS_PER_EVENT


def test_a_count_under_the_name_of_a_payload_is_shown(configured):
    """Only contents are dropped. A number of messages is no content."""
    log = configured()

    structlog.get_logger("a").info("asked", messages=3, prompt="hunter2")

    assert log.events[0]["messages"] == 3
    assert "prompt" not in log.events[0]


def test_events_of_jobs_and_of_progress_are_never_suppressed(configured):
    """The same failure of two jobs is two events, and events below a warning always pass."""
    log = configured()

    for number in range(2):
        structlog.get_logger("runner").warning("job_failed", job_id=number)
        structlog.get_logger("runner").info("tick")

    assert len(log.events) == 4


def test_remembered_warnings_are_bounded():
    """A library that puts values into its event does not use memory without bound."""
    repeats = RepeatFilter(30, monotonic=lambda: 0.0)

    for number in range(5_000):
        repeats.filter(logging.LogRecord("a", logging.ERROR, "", 0, f"odd {number}", None, None))

    assert len(repeats._kinds) <= 1_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://app:pa/ss@w@db:5432/x", "postgresql://app:***@db:5432/x"),
        ("https://host:8443/path mail a@b.example", "https://host:8443/path mail a@b.example"),
        ("GET /v1?api_key=hunter2&page=2", "GET /v1?api_key=***&page=2"),
        ("Incorrect API key provided: sk-hunter2hunter2.", "Incorrect API key provided: sk-***."),
        ("key gm_00000000000000000000000000000032ZA3v is revoked", "key gm_*** is revoked"),
        ("its secret is whsec_aHVudGVyMmh1bnRlcjJodW50ZXIy+/==.", "its secret is whsec_***."),
        ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
        ("basic authentication is required", "basic authentication is required"),
        (
            "[SQL: INSERT]\n[parameters: {'prompt': 'a]b'}]\n(Background)",
            "[SQL: INSERT]\n[parameters: ***]\n(Background)",
        ),
        ("DETAIL:  Failing row contains (1, hunter2).", "DETAIL:  Failing row contains (***)"),
        ("DETAIL:  Key (name)=(hunter2) already exists.", "DETAIL:  Key (name)=(***) already exists."),
        (
            'Key (profile_id)=(0198) is not present in table "profiles".',
            'Key (profile_id)=(***) is not present in table "profiles".',
        ),
        (
            'Key (id)=(7) is still referenced from table "jobs".',
            'Key (id)=(***) is still referenced from table "jobs".',
        ),
        ("Key (lower(email::text))=(a@b) already exists.", "Key (lower(email::text))=(***) already exists."),
        ("Key (a, b)=(x) already exists), y) already exists.", "Key (a, b)=(***) already exists."),
        ("Key (name)=(hun\nter2) already exists.", "Key (name)=(***) already exists."),
        (
            "Key (room)=(hunter2) conflicts with existing key (room)=(hunter2).",
            "Key (room)=(***) conflicts with existing key (room)=(***).",
        ),
        ("Schlüssel: Key (name)=(hunter2) existiert bereits", "Schlüssel: Key (name)=(***)"),
        ("DETAIL:  Failing row contains (1, hun\nter2).", "DETAIL:  Failing row contains (***)"),
        (
            "Failing row contains (1, hun\nter2).\n[SQL: I]\nThe above exception: Key (a)=(hunter2) already exists.",
            "Failing row contains (***)\n[SQL: I]\nThe above exception: Key (a)=(***) already exists.",
        ),
        (
            "Key (a)=(hunter2) already exists.\nThe above exception\nKey (a)=(hunter2) already exists.",
            "Key (a)=(***) already exists.\nThe above exception\nKey (a)=(***) already exists.",
        ),
        ("[type=int, input_value='hunter2', input_type=str]", "[type=int, input_value=***, input_type=str]"),
    ],
)
def test_secrets_in_a_text_are_masked_and_the_rest_is_kept(text, shown):
    """Hosts, paths and rules stay readable. Passwords, keys and quoted data are masked."""
    assert redact_text(text) == shown


def test_long_text_is_cut_and_says_so():
    """The length of a log line does not depend on the length of data."""
    assert redact_text("x" * 2_010) == "x" * 2_000 + "… (10 more characters)"


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_request_is_one_line_in_each_style(configured, style):
    """In JSON like every other event, although a faster handler writes it."""
    log = configured(style)
    requests = logging.getLogger(REQUESTS)

    assert bool(requests.handlers) is (style == "json")
    if style == "json":
        requests.info({"method": "GET", "route": "/v1/jobs/{id}", "status": 200})
        requests.debug({"method": "GET"})
        [event] = log.events
        assert event.pop("timestamp")
        assert event == {
            "level": "info",
            "event": "request",
            "logger": "gateway.requests",
            "method": "GET",
            "route": "/v1/jobs/{id}",
            "status": 200,
        }


def test_a_test_that_configures_logging_leaves_no_handler_behind() -> None:
    """A command that runs in this process must write only to the captured output of its own test."""
    before = logging.getLogger().handlers[:]

    with restored_logging():
        configure("json", "INFO", stream=io.StringIO())
        assert logging.getLogger().handlers != before

    assert logging.getLogger().handlers == before
