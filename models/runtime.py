"""The kernel's own tables: transitions, lifecycles, stages, workers, schedules. One schema, ``runtime``."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class Transition(Base):
    """One legal state change of one job, written by the table's trigger and by nothing else.

    Partitioned by month of ``created_at``. ``old_state`` and ``version_from`` are null for the insert.
    """

    __tablename__ = "transitions"
    __table_args__ = (
        Index("ix_transitions_created_at", "created_at", postgresql_using="brin"),
        # Of attempts that failed and steps that ended before the last alone: migrations/versions/0012_truth.py.
        Index("ix_transitions_attempts", "stage", "created_at"),
        # Few rows: what people, services and the dispatcher did to jobs that existed.
        Index(
            "ix_transitions_moved_by_others",
            "created_at",
            postgresql_where=text("old_state IS NOT NULL AND coalesce(changed_by, '') NOT LIKE 'worker:%'"),
        ),
        {"schema": "runtime", "postgresql_partition_by": "RANGE (created_at)"},
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_to: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    version_from: Mapped[int | None] = mapped_column(Integer)
    stage: Mapped[str] = mapped_column(String(100))
    old_state: Mapped[str | None] = mapped_column(String(20))
    new_state: Mapped[str] = mapped_column(String(20))
    changed_by: Mapped[str | None] = mapped_column(String(255))
    change_reason: Mapped[str | None] = mapped_column(Text)
    change_action: Mapped[str | None] = mapped_column(String(100))
    context: Mapped[dict[str, Any] | None]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(Text)


class LifecycleDefinition(Base):
    """The lifecycle of one job table as its trigger enforces it; ``jobs_branch`` is its part of ``runtime.jobs``.

    ``cancel_statement`` is what ``runtime.cancel`` runs for this table.
    """

    __tablename__ = "lifecycles"
    __table_args__ = {"schema": "runtime"}

    table_name: Mapped[str] = mapped_column(String(130), primary_key=True)
    initial: Mapped[str] = mapped_column(String(20))
    terminal: Mapped[list[str]] = mapped_column(ARRAY(Text))
    transitions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    jobs_branch: Mapped[str] = mapped_column(Text)
    cancel_statement: Mapped[str | None] = mapped_column(Text)


class StageState(Base):
    """What operators and workers say of one stage: paused or not, and the limit its handler declares."""

    __tablename__ = "stages"
    __table_args__ = {"schema": "runtime"}

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    table_name: Mapped[str] = mapped_column(ForeignKey("runtime.lifecycles.table_name", ondelete="CASCADE"))
    ready: Mapped[str] = mapped_column(String(20))
    running: Mapped[str] = mapped_column(String(20))
    done: Mapped[str] = mapped_column(String(20))
    limit_at_most: Mapped[int | None] = mapped_column(Integer)
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None] = mapped_column(String(255))


class Worker(Base):
    """One worker process. ``heartbeat_at`` plus the lease bounds every claim it holds.

    ``provider`` is who answers its language model calls, without any secret: see ``workers.runtime.ports.Answering``.
    """

    __tablename__ = "workers"
    __table_args__ = {"schema": "runtime"}

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    slots: Mapped[int] = mapped_column(Integer)
    running: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    lease_seconds: Mapped[float]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    draining_at: Mapped[datetime | None]
    version: Mapped[str | None] = mapped_column(String(40))
    provider: Mapped[dict[str, Any] | None]


class Dispatcher(Base):
    """The leading dispatcher's one row: its lease, who leads, and whether it asks to be rung for new work.

    ``term`` grows with every leader: it is the fence of the leader's statements. The lease may be taken by another one
    after ``expires_at``, or when the session (process and start) that took it has ended.
    """

    __tablename__ = "dispatcher"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": "runtime", "prefixes": ["UNLOGGED"]})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    term: Mapped[int] = mapped_column(BigInteger)
    leader: Mapped[str | None] = mapped_column(String(255))
    session_pid: Mapped[int | None] = mapped_column(Integer)
    session_started: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    leading_since: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    listening: Mapped[bool] = mapped_column(server_default=text("true"))


class Schedule(Base):
    """A cron row: at each time of ``cron`` in ``timezone``, beat enqueues ``payload`` for ``stage`` or runs ``action``.

    ``catch_up`` says what happens to times that passed while no beat ran: ``skip`` them, fire ``one``, or fire ``all``.
    ``changed_at`` is set by a trigger when cron, time zone or policy change or the schedule is resumed: what lies
    before it does not fire. ``refusal`` is why beat could not do what the row asks for, until the row changes or fires
    again. CHECKs of the migration say more: the name's rule, five fields of an enabled cron, an object as payload,
    finite times.
    """

    __tablename__ = "schedules"
    __table_args__ = (
        CheckConstraint("num_nonnulls(stage, action) = 1", name="stage_or_action"),
        CheckConstraint("catch_up IN ('skip', 'one', 'all')", name="catch_up"),
        {"schema": "runtime"},
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    stage: Mapped[str | None] = mapped_column(String(100))
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    action: Mapped[str | None] = mapped_column(String(100))
    cron: Mapped[str] = mapped_column(String(100))
    timezone: Mapped[str] = mapped_column(String(64), server_default=text("'UTC'"))
    catch_up: Mapped[str] = mapped_column(String(10), server_default=text("'one'"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    last_scheduled_for: Mapped[datetime | None]
    changed_at: Mapped[datetime | None]
    refusal: Mapped[str | None] = mapped_column(Text)
    refused_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Tick(Base):
    """One firing of one schedule; its key is what makes any number of beats fire it once.

    It has the job that it enqueued, or the ``refusal`` that kept it from that.
    """

    __tablename__ = "ticks"
    __table_args__ = {"schema": "runtime"}
    __expiry__ = Expiry(column="fired_at", after=timedelta(days=30))

    schedule: Mapped[str] = mapped_column(
        ForeignKey("runtime.schedules.name", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True
    )
    scheduled_for: Mapped[datetime] = mapped_column(primary_key=True)
    fired_at: Mapped[datetime] = mapped_column(server_default=func.now())
    fired_by: Mapped[str] = mapped_column(String(255))
    job_id: Mapped[UUID | None]
    refusal: Mapped[str | None] = mapped_column(Text)


class ProviderPause(Base):
    """A provider that is away: ``provider`` is ``<server>|<model>``. Nobody asks it before ``until``, then one does.

    Written by worker processes only (``workers.llm.pause_store``); the row goes when the provider answers.
    """

    __tablename__ = "provider_pauses"
    __table_args__ = (
        CheckConstraint(
            "since <= until AND isfinite(since) AND until < '10000-01-01' "
            "AND coalesce(probing_until, until) < '10000-01-01'",
            name="times",
        ),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="until", after=timedelta(days=1))

    provider: Mapped[str] = mapped_column(Text, primary_key=True)
    since: Mapped[datetime]
    until: Mapped[datetime]
    probing_until: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text)


class Security(Base):
    """One row, or none: whether a service must sign whom it speaks for. Only the tables' owner writes it."""

    __tablename__ = "security"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": "runtime"})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    strict: Mapped[bool]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_by: Mapped[str] = mapped_column(String(255))


class ActorKey(Base):
    """A key by which users' signatures are verified, as its two pads of HMAC. No role but the owner reads it."""

    __tablename__ = "actor_keys"
    __table_args__ = (
        CheckConstraint("length(inner_pad) = 64 AND length(outer_pad) = 64", name="pads"),
        {"schema": "runtime"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    inner_pad: Mapped[bytes]
    outer_pad: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]


class RoleActor(Base):
    """A login role that is one user, whatever it says of itself."""

    __tablename__ = "role_actors"
    __table_args__ = {"schema": "runtime"}

    role_name: Mapped[str] = mapped_column(String(63), primary_key=True)
    user_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DeadMessage(Base):
    """A message that the Celery door refused, with the reason. The same content again only counts.

    ``body`` is what came, up to 64 KiB, and ``size`` its whole length; ``arguments`` and ``keywords`` are its JSON as
    far as it could be read. ``job_id`` is what a replay made of it. Services have no rights here.
    """

    __tablename__ = "dead_messages"
    __table_args__ = (
        UniqueConstraint("fingerprint", name="uq_dead_messages_fingerprint"),
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        CheckConstraint("length(reason) BETWEEN 1 AND 2000", name="reason"),
        CheckConstraint("length(arguments) <= 8192 AND length(keywords) <= 8192", name="shown"),
        CheckConstraint("octet_length(body) <= 65536 AND octet_length(body) <= size", name="body"),
        CheckConstraint("count >= 1", name="count"),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="last_received_at", after=timedelta(days=30))

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    reason: Mapped[str] = mapped_column(Text)
    task: Mapped[str | None] = mapped_column(String(255))
    message_id: Mapped[str | None] = mapped_column(String(255))
    queue: Mapped[str | None] = mapped_column(String(255))
    content_type: Mapped[str | None] = mapped_column(String(100))
    content_encoding: Mapped[str | None] = mapped_column(String(50))
    arguments: Mapped[str | None] = mapped_column(Text)
    keywords: Mapped[str | None] = mapped_column(Text)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    size: Mapped[int] = mapped_column(BigInteger)
    count: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    replayed_at: Mapped[datetime | None]
    job_id: Mapped[UUID | None]
