"""Write the mail that asks a question, as text and HTML. Pure."""

from html import escape

from workers.approvals.question import Question, format_time
from workers.runtime.handler.outside import Letter

REMINDER_PREFIX = "Reminder: "
NOTHING_YET = "Opening the link decides nothing yet. The page shows all of this again and asks you to confirm."
YOURS = "The link is for {recipient}. Anyone who has it can decide in that name: do not forward this mail."


def write_mail(question: Question, *, recipient: str, link: str, zone: str, key: str, reminder: bool = False) -> Letter:
    """Return the mail that asks ``recipient`` to decide by ``link``, with times in the time zone ``zone``.

    A mail program treats letters with the same ``key`` as one letter, so give a reminder its own key.
    """
    return Letter(
        to=recipient,
        subject=(REMINDER_PREFIX if reminder else "") + question.subject,
        text=_text(question, recipient=recipient, link=link, zone=zone),
        html=_html(question, recipient=recipient, link=link, zone=zone),
        key=key,
    )


def _until(question: Question, zone: str) -> str:
    return f"Please decide until {format_time(question.until, zone)}. {question.silence}"


def _text(question: Question, *, recipient: str, link: str, zone: str) -> str:
    facts = [f"{fact.label}:\n{_indent(fact.value)}" for fact in question.facts]
    choices = "You can choose: " + ", ".join(choice.label for choice in question.choices) + "."
    parts = [*question.lines, *facts, _until(question, zone), choices, link, NOTHING_YET, _yours(recipient)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(question: Question, *, recipient: str, link: str, zone: str) -> str:
    lines = "".join(f"<p>{_html_lines(line)}</p>" for line in question.lines)
    rows = "".join(
        f'<tr><th align="left" valign="top">{escape(fact.label)}</th><td>{_html_lines(fact.value)}</td></tr>'
        for fact in question.facts
    )
    facts = f"<table>{rows}</table>" if rows else ""
    choices = " · ".join(escape(choice.label) for choice in question.choices)
    return (
        f"<!doctype html><html><body>{lines}{facts}<p><strong>{escape(_until(question, zone))}</strong></p>"
        f'<p><a href="{escape(link)}">Look and decide: {choices}</a></p>'
        f"<p>{escape(NOTHING_YET)}<br>{escape(_yours(recipient))}</p></body></html>\n"
    )


def _yours(recipient: str) -> str:
    return YOURS.format(recipient=recipient)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _html_lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")
