"""Who is told of ended jobs by HTTP, and each delivery."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Index, Integer, String, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.lifecycle import Job, Lifecycle, Step, kernel_indexes

_URL_RULE = "url ~* '^https?://[^[:space:][:cntrl:]]+$' AND length(url) <= 2048"
_YEARS = "BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'"

# An ended delivery can be sent again (`notifications.resend`).
DELIVERIES = Lifecycle(
    steps=(Step("notifications.deliver", ready="pending", running="sending", done="delivered"),),
    also=frozenset({("delivered", "pending"), ("cancelled", "pending")}),
    retention=timedelta(days=30),
)


class Endpoint(Base):
    """An address that is told of the ended jobs of its owner, in some stages or in all (``stages`` null).

    ``owner_id`` null means the operators: they are told of the jobs that nobody owns or, with ``every_owner``, of all
    jobs. An endpoint without a ``url`` holds the secret that signs what goes to the one-off addresses of its owner
    (``callback_url`` of a job). ``secret`` and ``previous_secret`` are encrypted by the keyring; until
    ``previous_until`` both sign. ``version`` counts what the owner sets, not the failures.
    """

    __tablename__ = "endpoints"
    __table_args__ = (
        Index("ix_endpoints_owner_id", "owner_id", "id"),
        Index(
            "uq_endpoints_one_off",
            "owner_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("url IS NULL"),
        ),
        CheckConstraint(_URL_RULE, name="url"),
        CheckConstraint(
            "url IS NOT NULL OR (stages IS NULL AND NOT every_owner AND disabled_at IS NULL)", name="one_off"
        ),
        CheckConstraint("NOT every_owner OR owner_id IS NULL", name="every_owner"),
        CheckConstraint(
            "cardinality(stages) BETWEEN 1 AND 100 AND array_position(stages, NULL) IS NULL "
            "AND octet_length(stages::text) <= 16384",
            name="stages",
        ),
        CheckConstraint(
            "length(secret) BETWEEN 1 AND 2000 AND length(previous_secret) <= 2000 "
            "AND (previous_secret IS NULL OR previous_until IS NOT NULL)",
            name="secrets",
        ),
        CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL) AND length(disabled_reason) <= 500", name="disabled"
        ),
        CheckConstraint(
            "consecutive_failures >= 0 AND (consecutive_failures = 0) = (first_failure_at IS NULL)", name="failures"
        ),
        CheckConstraint(
            f"coalesce(previous_until, created_at) {_YEARS} AND coalesce(disabled_at, created_at) {_YEARS}",
            name="times",
        ),
        {"schema": "notifications"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    owner_id: Mapped[UUID | None] = mapped_column(server_default=text("runtime.actor_id()"))
    every_owner: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    url: Mapped[str | None] = mapped_column(Text)
    stages: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    secret: Mapped[str] = mapped_column(Text)
    previous_secret: Mapped[str | None] = mapped_column(Text)
    previous_until: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    consecutive_failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    first_failure_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str] = mapped_column(String(255))


class EndpointChange(Base):
    """One change of an endpoint: who, when and why. A trigger writes it, whoever makes the change."""

    __tablename__ = "endpoint_changes"
    __table_args__ = (
        Index("ix_endpoint_changes_endpoint_id", "endpoint_id", "id"),
        Index("ix_endpoint_changes_created_at", "created_at"),
        CheckConstraint("length(reason) <= 2000 AND length(user_agent) <= 1000", name="texts"),
        {"schema": "notifications"},
    )
    __expiry__ = Expiry(column="created_at", after=timedelta(days=400))

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    endpoint_id: Mapped[UUID]
    owner_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(Integer)
    action: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(Text)
    changed_by: Mapped[str] = mapped_column(String(255))
    context: Mapped[dict[str, Any] | None]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Delivery(Job):
    """One notice to one address: to an endpoint, or to ``url``, the ``callback_url`` of a job.

    ``event`` is what happened to the job ``job_id``, which then had ``job_version`` and ``job_status``; a test of an
    endpoint has no job. ``attempts`` tells what became of each attempt, the oldest first. ``attempts_before`` is the
    ``retry_count`` at which the schedule began: it begins again when the delivery is sent again. Deliveries with the
    same ``lane`` (an endpoint; an owner and a host) are limited together; the database sets it.
    """

    __tablename__ = "deliveries"
    __lifecycle__: ClassVar[Lifecycle] = DELIVERIES
    __table_args__ = (
        *kernel_indexes("deliveries", limit_column="lane"),
        Index("ix_deliveries_owner_id", "owner_id", "id"),
        Index("ix_deliveries_endpoint_id", "endpoint_id", "id"),
        Index("ix_deliveries_job_id", "job_id", "id"),
        Index("ix_deliveries_status", "status", "id"),
        CheckConstraint(r"event ~ '^[a-z]+\.[a-z_]+$'", name="event"),
        CheckConstraint("num_nonnulls(endpoint_id, url) = 1", name="target"),
        CheckConstraint(_URL_RULE, name="url"),
        CheckConstraint(
            "num_nonnulls(job_id, job_stage, job_status, job_version) = CASE WHEN event LIKE 'job.%' THEN 4 ELSE 0 END",
            name="job",
        ),
        CheckConstraint(
            "jsonb_typeof(attempts) = 'array' AND octet_length(attempts::text) <= 131072 AND attempts_before >= 0",
            name="attempts",
        ),
        {"schema": "notifications"},
    )

    status: Mapped[str] = mapped_column(String(40), server_default=text("'pending'"))
    event: Mapped[str] = mapped_column(String(40))
    endpoint_id: Mapped[UUID | None]
    url: Mapped[str | None] = mapped_column(Text)
    lane: Mapped[str] = mapped_column(String(400))
    job_id: Mapped[UUID | None]
    job_stage: Mapped[str | None] = mapped_column(String(100))
    job_status: Mapped[str | None] = mapped_column(String(40))
    job_version: Mapped[int | None] = mapped_column(Integer)
    ended_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'"))
    attempts_before: Mapped[int] = mapped_column(Integer, server_default=text("0"))
