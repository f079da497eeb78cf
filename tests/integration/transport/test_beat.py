"""Beat's decisions on real rows: a tick fires once, in the transaction of the job that it enqueues."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from celery import Celery
from celery.beat import Service
from sqlalchemy import create_engine, func, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from config.schedules import DEFAULT_SCHEDULES
from models.runtime import Schedule, Tick
from tests.conftest import sqlalchemy_url
from tests.support.proving.models import PlainJob
from workers.runtime.beat.firing import add_defaults, fire_due
from workers.transport.beat import PatientBeat

Open = Callable[[], Session]
EVERY_MINUTE = "* * * * *"


@pytest.fixture
def connect(database_url):
    """Open a session on its own connection."""
    engine = create_engine(sqlalchemy_url(database_url), poolclass=NullPool)
    yield lambda: Session(engine)
    engine.dispose()


@pytest.fixture
def connect_older(fresh_database_url):
    """Open a session on a database of a release without limits for payloads."""
    engine = create_engine(sqlalchemy_url(fresh_database_url), poolclass=NullPool)
    with engine.begin() as connection:
        for trigger in ("touch", "note_change"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger} ON runtime.schedules")
        connection.exec_driver_sql("ALTER TABLE runtime.schedules ALTER payload TYPE jsonb")
    yield lambda: Session(engine)
    engine.dispose()


def add(connect: Open, name: str = "s", *, ago: timedelta = timedelta(minutes=5), **columns: object) -> None:
    """Add a schedule that was created ``ago``. By default it enqueues a plain job each minute."""
    target = {} if "action" in columns else {"stage": "proving.plain", "payload": {"key": name}}
    with connect() as session, session.begin():
        session.add(Schedule(**{"name": name, "cron": EVERY_MINUTE, **target, **columns}))
        session.flush()
        session.execute(update(Schedule).where(Schedule.name == name).values(created_at=func.now() - ago))


def fire(connect: Open, by: str = "beat") -> list[str]:
    with connect() as session, session.begin():
        return fire_due(session, fired_by=by)


def jobs_of(connect: Open, key: str = "s") -> int:
    with connect() as session:
        return session.scalar(select(func.count()).select_from(PlainJob).where(PlainJob.key == key)) or 0


def test_a_due_schedule_enqueues_its_job_and_remembers_the_tick(connect):
    """The tick has the job's id. The schedule has the time for which it fired."""
    add(connect)

    assert fire(connect, "beat one") == []

    with connect() as session:
        [tick] = session.scalars(select(Tick)).all()
        job = session.get(PlainJob, tick.job_id)
        schedule = session.get(Schedule, "s")
        assert job is not None
        assert schedule is not None
        assert (tick.fired_by, schedule.last_scheduled_for) == ("beat one", tick.scheduled_for)
        assert job.idempotency_key == f"schedule:s:{tick.scheduled_for.isoformat()}"


def test_a_fired_time_does_not_fire_again(connect):
    """The next look, a moment later, finds nothing due."""
    add(connect, cron="0 0 1 1 *", ago=timedelta(days=400))
    fire(connect)
    fire(connect)

    assert jobs_of(connect) == 1


def test_two_beats_at_the_same_moment_fire_a_tick_once(connect, psql):
    """Both find it due. The second one waits for the first one's commit and does not fire."""
    add(connect, cron="0 0 1 1 *", ago=timedelta(days=400))
    with connect() as one, one.begin():
        fire_due(one, fired_by="one")
        rival = threading.Thread(target=fire, args=(connect, "two"))
        rival.start()
        wait_for_a_blocked_session(psql)
    rival.join(timeout=10)

    assert jobs_of(connect) == 1
    with connect() as session:
        assert session.scalars(select(Tick.fired_by)).all() == ["one"]


def test_a_tick_that_rolled_back_is_fired_by_the_next_beat(connect):
    """If a beat dies before its commit, the tick and its job are not lost."""
    add(connect, cron="0 0 1 1 *", ago=timedelta(days=400))
    with connect() as session:
        fire_due(session, fired_by="dying")
        session.rollback()
    assert jobs_of(connect) == 0

    fire(connect, "next")

    assert jobs_of(connect) == 1


@pytest.mark.parametrize(("catch_up", "jobs"), [("all", 5), ("one", 1), ("skip", 0)])
def test_missed_times_follow_the_schedules_policy(connect, catch_up, jobs):
    """After five months without a beat, the policy decides: all five times, only the newest, or none."""
    today = datetime.now(UTC)
    ago = timedelta(days=today.day - 1 + 4 * 30 + 15)
    add(connect, cron="0 0 1 * *", ago=ago, catch_up=catch_up)

    fire(connect)

    assert jobs_of(connect) == jobs


def test_skip_fires_a_time_that_is_less_than_a_minute_old(connect):
    """A running beat looks each second, so it skips nothing."""
    add(connect, catch_up="skip")

    fire(connect)

    assert jobs_of(connect) == 1


def test_a_paused_schedule_does_not_fire(connect):
    """It fires again after somebody enables it."""
    add(connect, enabled=False)

    fire(connect)

    assert jobs_of(connect) == 0


def test_an_action_is_named_for_publishing_and_enqueues_nothing(connect):
    """The caller publishes it after the commit."""
    add(connect, action="prune")

    assert fire(connect) == ["prune"]
    assert jobs_of(connect) == 0


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"cron": "99 * * * *"}, "cron must have five fields (minute hour day month weekday) that make sense"),
        ({"cron": "0 0 31 2 *"}, "cron must have five fields"),
        ({"timezone": "Mars/Olympus"}, "timezone must be an IANA name"),
        ({"stage": "proving.typo"}, "stage 'proving.typo' is not registered"),
        ({"payload": {"colour": "red"}}, "colour is not a field of this stage"),
        ({"payload": {"act": "x" * 21}}, "value too long"),
        ({"payload": {"act": "fail", "seconds": "soon"}}, "seconds must be a valid number"),
    ],
)
def test_an_invalid_row_is_skipped_and_logged(connect, columns, said):
    """The other schedules fire. The log names the schedule; the log and the row have the reason."""
    add(connect, "bad", **columns)
    add(connect, "good")

    with capture_logs() as logs:
        fire(connect)

    assert (jobs_of(connect, "bad"), jobs_of(connect, "good")) == (0, 1)
    [line] = [line for line in logs if line["event"] == "schedule_refused"]
    assert line["schedule"] == "bad"
    assert said in line["error"]
    with connect() as session:
        bad, good = session.get_one(Schedule, "bad"), session.get_one(Schedule, "good")
        assert said in str(bad.refusal)
        assert bad.refused_at is not None
        assert (good.refusal, good.refused_at) == (None, None)
        assert all(said in str(tick.refusal) for tick in session.scalars(select(Tick).where(Tick.schedule == "bad")))


@pytest.mark.parametrize(
    "payload",
    ['{"seconds": ' + "9" * 5_000 + "}", '{"seconds": 1e5000}', "[" * 3_000 + "]" * 3_000],
    ids=["5,000 digits", "1e5000", "3,000 levels"],
)
def test_a_payload_that_nobody_can_read_fails_alone(connect_older, payload):
    """It was written in psql before payloads had limits. The other schedules fire, and the row has the reason."""
    connect = connect_older
    add(connect, "bad")
    value = payload if payload.startswith("{") else '{"act": ' + payload + "}"
    with connect() as session, session.begin():
        session.execute(text("UPDATE runtime.schedules SET payload = CAST(:value AS jsonb)"), {"value": value})
    add(connect, "good")

    with capture_logs() as logs:
        fire(connect)

    assert (jobs_of(connect, "bad"), jobs_of(connect, "good")) == (0, 1)
    assert [line["schedule"] for line in logs if line["event"] == "schedule_refused"] == ["bad"]
    with connect() as session:
        refusal = session.scalar(select(Schedule.refusal).where(Schedule.name == "bad"))
    assert str(refusal).startswith("payload cannot be read: ")


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"cron": "0 9 * * 1 *"}, "cron_has_five_fields"),
        ({"cron": "0 9 * *"}, "cron_has_five_fields"),
        ({"cron": "@daily"}, "cron_has_five_fields"),
        ({"cron": "0  9 * * 1"}, "cron_has_five_fields"),
        ({"cron": ""}, "cron_has_five_fields"),
        ({"payload": []}, "payload_is_an_object"),
        ({"payload": {"key": "x" * 300_000}}, "payload_size"),
        ({"name": ""}, "name"),
        ({"name": " night"}, "name"),
        ({"name": "night\N{NO-BREAK SPACE}"}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "night\N{ZERO WIDTH SPACE}ly"}, "name"),
        ({"name": "\N{RIGHT-TO-LEFT OVERRIDE}ylthgin"}, "name"),
        ({"name": "cafe\N{COMBINING ACUTE ACCENT}"}, "name"),
        ({"catch_up": "two"}, "catch_up"),
        ({"action": "prune", "stage": "proving.plain"}, "stage_or_action"),
    ],
)
def test_rules_that_sql_can_check_are_enforced_by_postgres(connect, columns, rule):
    """A person in psql gets the refusal at once, by the same rules as on the command line."""
    with pytest.raises(IntegrityError) as refused:
        add(connect, **columns)

    assert f'"ck_schedules_{rule}"' in str(refused.value)


@pytest.mark.parametrize("column", ["last_scheduled_for", "created_at", "updated_at"])
@pytest.mark.parametrize("time", ["infinity", "-infinity", "294000-01-01", "4000-01-01 BC"])
def test_a_time_that_no_client_can_read_is_refused_by_postgres(connect, column, time):
    """With such a time no schedule could be read."""
    add(connect)

    with connect() as session, pytest.raises(IntegrityError):
        session.execute(text(f"UPDATE runtime.schedules SET {column} = '{time}'"))


@pytest.mark.parametrize(
    "change",
    ["cron = '*/2 * * * *'", "timezone = 'Asia/Kathmandu'", "catch_up = 'all'", "cron = '0 0 1 1 *', catch_up = 'all'"],
)
def test_a_schedule_changed_in_sql_does_not_fire_for_the_past(connect, change):
    """Only times after the change are due. The row has the time of the change."""
    add(connect, cron="0 0 29 2 *", ago=timedelta(days=400), timezone="Europe/Paris")

    with connect() as session, session.begin():
        session.execute(text(f"UPDATE runtime.schedules SET {change}"))
    fire(connect)

    assert jobs_of(connect) == 0
    with connect() as session:
        row = session.get_one(Schedule, "s")
        assert row.changed_at is not None
        assert row.updated_at >= row.changed_at


def test_a_schedule_resumed_in_sql_does_not_make_up_for_its_pause(connect):
    """Its policy does not matter: nobody wanted the times of the pause."""
    add(connect, enabled=False, catch_up="all", cron="0 * * * *", ago=timedelta(days=3))

    with connect() as session, session.begin():
        session.execute(text("UPDATE runtime.schedules SET enabled = true"))
    fire(connect)

    assert jobs_of(connect) == 0


def test_firing_and_a_new_payload_do_not_count_as_a_change(connect):
    """The missed time fires with the new payload."""
    add(connect)
    with connect() as session, session.begin():
        session.execute(text("""UPDATE runtime.schedules SET payload = '{"key": "new"}'"""))
    fire(connect)

    assert jobs_of(connect, "new") == 1
    with connect() as session:
        assert session.get_one(Schedule, "s").changed_at is None


def test_a_refusal_is_cleared_once_the_row_is_corrected_or_fires(connect):
    """The refusal in a row is always about its current content."""
    add(connect, payload={"colour": "red"})
    fire(connect)
    with connect() as session, session.begin():
        assert session.get_one(Schedule, "s").refusal == "colour is not a field of this stage, got 'red'"
        session.execute(text("UPDATE runtime.schedules SET payload = '{}'"))
    with connect() as session, session.begin():
        assert session.get_one(Schedule, "s").refusal is None
        session.execute(text("UPDATE runtime.schedules SET refusal = 'of an older release', refused_at = now()"))
        session.execute(text("UPDATE runtime.schedules SET last_scheduled_for = now() - interval '5 minutes'"))
    fire(connect)

    with connect() as session:
        assert session.get_one(Schedule, "s").refusal is None


def test_a_schedule_that_somebody_holds_is_left_for_a_later_look(connect):
    """If a beat freezes right after its tick, the other schedules fire, and no tick is lost."""
    add(connect, "held", cron="0 0 1 1 *", ago=timedelta(days=400))
    with connect() as frozen, frozen.begin():
        fire_due(frozen, fired_by="frozen")
        add(connect, "free", cron="0 0 1 1 *", ago=timedelta(days=400))
        with connect() as session, session.begin():
            session.execute(text("SET LOCAL lock_timeout = '50ms'"))
            fire_due(session, fired_by="other")
        assert (jobs_of(connect, "held"), jobs_of(connect, "free")) == (0, 1)
        frozen.rollback()

    fire(connect)

    assert (jobs_of(connect, "held"), jobs_of(connect, "free")) == (1, 1)


def test_a_database_that_is_away_ends_the_look(connect):
    """This is no error of the schedule. The next look fires the tick, so it is not lost."""
    add(connect, cron="0 0 1 1 *", ago=timedelta(days=400))
    with connect() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        session.begin_nested()
        with connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(OperationalError):
            fire_due(session, fired_by="cut off")
        session.invalidate()

    fire(connect)

    assert jobs_of(connect) == 1


def test_sigterm_asks_a_beat_to_stop_and_interrupts_nothing():
    """A SystemExit inside the driver would become an error of its clean-up, and the beat would not stop."""
    service = Service(app=Celery(set_as_current=False))
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        PatientBeat(app=service.app, quiet=True).install_sync_handler(service)
        os.kill(os.getpid(), signal.SIGTERM)  # Celery's own handler would raise SystemExit here
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

    assert vars(service)["_is_shutdown"].is_set()


def test_defaults_are_written_once_and_left_to_the_operator_then(connect):
    """A changed or paused schedule stays so after a restart."""
    with connect() as session, session.begin():
        add_defaults(session, DEFAULT_SCHEDULES)
        session.execute(update(Schedule).values(cron="7 7 * * *", enabled=False))

    with connect() as session, session.begin():
        add_defaults(session, DEFAULT_SCHEDULES)

    with connect() as session:
        rows = session.execute(select(Schedule.name, Schedule.cron, Schedule.enabled)).all()
    assert {row.name for row in rows} == {schedule.name for schedule in DEFAULT_SCHEDULES}
    assert {(row.cron, row.enabled) for row in rows} == {("7 7 * * *", False)}


def wait_for_a_blocked_session(psql: "psycopg.Connection[dict[str, object]]") -> None:
    """Return once a connection waits for a lock.

    ``psql`` is in autocommit: within a transaction, Postgres repeats the same statistics.
    """
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        if psql.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone():
            return
        time.sleep(0.005)
    raise AssertionError("nobody waits for a lock")
