"""Tickets, and how urgent they are."""

from datetime import timedelta
from typing import ClassVar

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from models.lifecycle import Job, Lifecycle, Step, kernel_indexes

TRIAGE = Lifecycle(
    steps=(Step("tickets.triage", ready="pending", running="processing", done="completed"),),
    retention=timedelta(days=30),
)


class TicketJob(Job):
    """One ticket. A model reads it and says how urgent it is."""

    __tablename__ = "ticket_jobs"
    __lifecycle__: ClassVar[Lifecycle] = TRIAGE
    __table_args__ = (*kernel_indexes("ticket_jobs"), {"schema": "tickets"})

    text: Mapped[str] = mapped_column(Text)
    urgency: Mapped[str | None] = mapped_column(Text)
