"""The content of the page of a link, as data. The gateway renders it and adds nothing. Pure."""

from dataclasses import dataclass

from workers.approvals.decisions import Approval, LinkState
from workers.approvals.question import DecisionChoice, Fact, format_time

HEADINGS = {
    LinkState.DECIDED: "This was decided",
    LinkState.EXPIRED: "This has expired: nobody decided in time",
    LinkState.CANCELLED: "This was cancelled",
    LinkState.REVOKED: "You are no longer asked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: its text, the facts to decide on, and the buttons. Without buttons there is nothing to decide."""

    title: str
    lines: tuple[str, ...]
    facts: tuple[Fact, ...]
    choices: tuple[DecisionChoice, ...]


def build_page(approval: Approval, *, zone: str) -> Page:
    """Return the page of a link: the question while the link is open, else the result, by whom and when.

    The question stays on the page, so that everybody sees what was decided. Times are in the time zone ``zone``.
    """
    question = approval.question
    if approval.state is LinkState.OPEN:
        until = f"Please decide until {format_time(approval.expires_at, zone)}. {question.silence}"
        decides = f"You decide as {approval.recipient}."
        return Page(
            title=question.subject,
            lines=(*question.lines, until, decides),
            facts=question.facts,
            choices=question.choices,
        )
    return Page(
        title=HEADINGS[approval.state],
        lines=(*_describe_end(approval, zone), question.subject, *question.lines),
        facts=question.facts,
        choices=(),
    )


def _describe_end(approval: Approval, zone: str) -> tuple[str, ...]:
    at = format_time(approval.moved_at, zone) if approval.moved_at else ""
    match approval.state:
        case LinkState.DECIDED:
            by = f"you ({approval.recipient})" if approval.is_own else approval.moved_by or "an unknown actor"
            note = (f"Note: {approval.note}",) if approval.note else ()
            return (f"Decided by {by} on {at}: {approval.became}.", *note)
        case LinkState.EXPIRED:
            ended = format_time(approval.expires_at, zone)
            return (f"The time to decide ended on {ended}. {approval.question.silence}",)
        case LinkState.CANCELLED:
            return (f"Cancelled on {at}.",)
        case _:
            return (f"The link for {approval.recipient} was revoked.",)
