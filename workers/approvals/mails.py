"""The mail that asks: text and HTML from a question. Pure."""

from html import escape

from workers.approvals.question import Question, moment
from workers.runtime.handler.outside import Letter

REMINDER = "Reminder: "
NOTHING_YET = "Opening the link decides nothing yet. The page shows all of this again and asks you to confirm."
YOURS = "The link is for {recipient}. Whoever has it can decide in that name: do not forward this mail."


def asking(question: Question, *, recipient: str, link: str, zone: str, key: str, reminder: bool = False) -> Letter:
    """Return the mail that asks ``recipient`` to decide by ``link``, with times in the time zone ``zone``.

    Letters of the same ``key`` are one letter to a mail program: give a reminder a key of its own.
    """
    return Letter(
        to=recipient,
        subject=(REMINDER if reminder else "") + question.subject,
        text=_text(question, recipient=recipient, link=link, zone=zone),
        html=_html(question, recipient=recipient, link=link, zone=zone),
        key=key,
    )


def _until(question: Question, zone: str) -> str:
    return f"Please decide until {moment(question.until, zone)}. {question.silence}"


def _text(question: Question, *, recipient: str, link: str, zone: str) -> str:
    facts = [f"{fact.label}:\n{_indented(fact.value)}" for fact in question.facts]
    choices = "You can choose: " + ", ".join(choice.label for choice in question.choices) + "."
    parts = [*question.lines, *facts, _until(question, zone), choices, link, NOTHING_YET, _yours(recipient)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(question: Question, *, recipient: str, link: str, zone: str) -> str:
    lines = "".join(f"<p>{_lined(line)}</p>" for line in question.lines)
    rows = "".join(
        f'<tr><th align="left" valign="top">{escape(fact.label)}</th><td>{_lined(fact.value)}</td></tr>'
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


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _lined(text: str) -> str:
    return escape(text).replace("\n", "<br>")
