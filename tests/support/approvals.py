"""A question about a job of the proving table, and links to it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.proving.models import WaitingJob
from workers.approvals.links import JobWait, issue
from workers.approvals.question import DecisionChoice, Fact, Question
from workers.runtime.database import Database
from workers.runtime.store.claim import Ticket

ANN = "Ann Applicant <ann@example.org>"
CHOICES = (DecisionChoice(into="approved", label="Send it"), DecisionChoice(into="rejected", label="Do not send it"))


def question(**changes: Any) -> Question:
    """Return a question to Ann."""
    return Question(
        **{
            "subject": "Send the application to Miller & Sons?",
            "lines": ("We wrote this letter for you.", "Dear <Ms Miller>,\nI am a baker."),
            "facts": (Fact(label="Posting", value="Baker, Leeds"), Fact(label="Salary", value="£ 30,000")),
            "choices": CHOICES,
            "until": datetime.now(UTC) + timedelta(hours=1),
            "silence": "If you do not decide, nothing is sent.",
            **changes,
        }
    )


async def link(database: Database, ticket: Ticket, *, to: str = ANN, purpose: str = "ask", **changes: Any) -> str:
    """Issue a link about the wait of a proving job and commit it; return its token."""
    async with database.session() as session:
        return await issue(session, JobWait(WaitingJob, *ticket), question(**changes), recipient=to, purpose=purpose)
