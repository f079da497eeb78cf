"""Notices of ended jobs: what is still to be told, who wants to know, and who takes the notices."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Identity, Index, Integer, String, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class Notice(Base):
    """A job that has ended, until every taker has it.

    The guard of the job's table writes it in the transaction that ends the job, whoever ends it, if the job has a
    ``callback_url`` or a row of ``runtime.notice_interests`` matches. ``problem`` says why a taker refused it: then it
    stays for a person. Set it to null to hand it out again.
    """

    __tablename__ = "notices"
    __table_args__ = (
        CheckConstraint("length(callback_url) <= 2048", name="callback_url"),
        CheckConstraint("ended_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'", name="times"),
        CheckConstraint("length(problem) <= 2000", name="problem"),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="ended_at", after=timedelta(days=30))

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID]
    stage: Mapped[str] = mapped_column(String(100))
    table_name: Mapped[str] = mapped_column(String(130))
    status: Mapped[str] = mapped_column(String(40))
    version: Mapped[int] = mapped_column(Integer)
    owner_id: Mapped[UUID | None]
    callback_url: Mapped[str | None] = mapped_column(Text)
    ended_at: Mapped[datetime]
    problem: Mapped[str | None] = mapped_column(Text)


class NoticeInterest(Base):
    """Somebody wants to know of the ended jobs of one owner, or of all owners, in some stages or in all.

    ``owner_id`` null without ``every_owner`` means the jobs that nobody owns. ``stages`` null means every stage.
    """

    __tablename__ = "notice_interests"
    __table_args__ = (
        Index("ix_notice_interests_owner_id", "owner_id"),
        CheckConstraint("NOT every_owner OR owner_id IS NULL", name="every_owner"),
        CheckConstraint(
            "cardinality(stages) BETWEEN 1 AND 1000 AND array_position(stages, NULL) IS NULL "
            "AND octet_length(stages::text) <= 65536",
            name="stages",
        ),
        {"schema": "runtime"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    owner_id: Mapped[UUID | None]
    every_owner: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    stages: Mapped[list[str] | None] = mapped_column(ARRAY(Text))


class NoticeTaker(Base):
    """One SQL statement of a domain that turns notices into jobs of its own; a revision of that domain writes it.

    Its only parameter, ``$1``, is an array of ``runtime.notices``: ``… FROM unnest($1) AS n``. The leading dispatcher
    runs it in the transaction that deletes the notices, with the rights of the owner of the tables.
    """

    __tablename__ = "notice_takers"
    __table_args__ = (
        CheckConstraint("octet_length(statement) BETWEEN 1 AND 65536", name="statement"),
        {"schema": "runtime"},
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    statement: Mapped[str] = mapped_column(Text)
