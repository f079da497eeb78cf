"""What the page behind a link shows, as pure data; the gateway renders it and adds nothing."""

from dataclasses import dataclass

from workers.approvals.decisions import Approval, State
from workers.approvals.question import Choice, Fact, moment

HEADINGS = {
    State.DECIDED: "This was decided",
    State.EXPIRED: "This is over: nobody decided in time",
    State.CANCELLED: "This was cancelled",
    State.REVOKED: "You are not asked any more",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: what it says, what is to be decided on, and the buttons; without buttons there is nothing to decide."""

    title: str
    lines: tuple[str, ...]
    facts: tuple[Fact, ...]
    choices: tuple[Choice, ...]


def page(approval: Approval, *, zone: str) -> Page:
    """Return the page of a link: the question while it is open, else what became of it, by whom and when.

    The question stays on it, so that everybody sees what was decided on. Times are in the time zone ``zone``.
    """
    question = approval.question
    if approval.state is State.OPEN:
        until = f"Please decide until {moment(approval.expires_at, zone)}. {question.silence}"
        decides = f"You decide as {approval.recipient}."
        return Page(
            title=question.subject,
            lines=(*question.lines, until, decides),
            facts=question.facts,
            choices=question.choices,
        )
    return Page(
        title=HEADINGS[approval.state],
        lines=(*_became(approval, zone), question.subject, *question.lines),
        facts=question.facts,
        choices=(),
    )


def _became(approval: Approval, zone: str) -> tuple[str, ...]:
    at = moment(approval.moved_at, zone) if approval.moved_at else ""
    match approval.state:
        case State.DECIDED:
            by = f"you ({approval.recipient})" if approval.is_own else approval.moved_by or "an unknown actor"
            note = (f"Note: {approval.note}",) if approval.note else ()
            return (f"Decided by {by} on {at}: {approval.became}.", *note)
        case State.EXPIRED:
            return (f"The time to decide ended on {moment(approval.expires_at, zone)}. {approval.question.silence}",)
        case State.CANCELLED:
            return (f"Cancelled on {at}.",)
        case _:
            return (f"The link for {approval.recipient} was taken back.",)
