"""The mail and the page of a question: the same facts, the deadline in two zones, and no markup from users."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pydantic import ValidationError

from tests.support.approvals import ANN, CHOICES, question
from workers.approvals.decisions import Approval, LinkState, explain_closed
from workers.approvals.links import is_token, new_token, token_hash
from workers.approvals.mails import write_mail
from workers.approvals.pages import build_page
from workers.approvals.question import DecisionChoice, Fact, Question, format_time

UNTIL = datetime(2026, 7, 3, 16, 30, tzinfo=UTC)
LINK = "https://mill.example/approvals/t0ken"


def letter(**changes):
    return write_mail(
        question(until=UNTIL), **{"recipient": ANN, "link": LINK, "zone": "America/New_York", "key": "k", **changes}
    )


def approval(state: LinkState = LinkState.OPEN, **changes) -> Approval:
    return Approval(
        **{
            "state": state,
            "job_id": uuid4(),
            "version": 3,
            "recipient": ANN,
            "purpose": "ask",
            "question": question(until=UNTIL),
            "expires_at": UNTIL,
            "became": None,
            "moved_by": None,
            "moved_at": None,
            "is_own": False,
            "note": None,
            **changes,
        }
    )


def test_a_mail_has_the_facts_the_deadline_and_the_link():
    """Text and HTML have them, and say that opening the link decides nothing."""
    mail = letter()

    assert (mail.to, mail.key) == (ANN, "k")
    assert mail.subject == "Send the application to Miller & Sons?"
    for part in (mail.text, mail.html or ""):
        assert LINK in part
        assert "Friday, 03 July 2026, 12:30 EDT (2026-07-03 16:30 UTC)" in part
        assert "If you do not decide, nothing is sent." in part
        assert "Baker, Leeds" in part
        assert "Send it" in part
        assert "decides nothing yet" in part


def test_a_mail_shows_the_words_of_others_as_words():
    """Markup in a posting or in a model's text is escaped."""
    html = letter().html or ""

    assert "&lt;Ms Miller&gt;,<br>I am a baker." in html
    assert "<Ms Miller>" not in html


def test_a_reminder_says_that_it_is_one():
    """Only the subject differs."""
    assert letter(reminder=True).subject == "Reminder: " + letter().subject
    assert letter(reminder=True).text == letter().text


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC", "Friday, 03 July 2026, 16:30 UTC"),
        ("Europe/London", "Friday, 03 July 2026, 17:30 BST (2026-07-03 16:30 UTC)"),
        ("Asia/Tokyo", "Saturday, 04 July 2026, 01:30 JST (2026-07-03 16:30 UTC)"),
    ],
)
def test_a_time_is_shown_in_the_zone_of_the_reader_and_in_utc(zone, shown):
    """The time is shown once if both zones are the same."""
    assert format_time(UNTIL, zone) == shown


def test_an_open_page_asks_with_the_words_of_the_mail():
    """It also says in which name the reader decides, because a mail can be forwarded."""
    shown = build_page(approval(), zone="UTC")

    assert shown.title == question().subject
    assert shown.choices == CHOICES
    assert shown.facts == question().facts
    assert shown.lines[:2] == question().lines
    assert shown.lines[-1] == f"You decide as {ANN}."


CLOSED = {
    LinkState.DECIDED: ({"became": "rejected", "moved_by": "boris", "moved_at": UNTIL}, "Decided by boris on Friday"),
    LinkState.EXPIRED: ({}, "The time to decide ended on Friday, 03 July 2026, 16:30 UTC. If you do not decide"),
    LinkState.CANCELLED: ({"moved_at": UNTIL}, "Cancelled on Friday, 03 July 2026, 16:30 UTC."),
    LinkState.REVOKED: ({}, f"The link for {ANN} was revoked."),
}


@pytest.mark.parametrize(("state", "changes", "said"), [(state, *rest) for state, rest in CLOSED.items()])
def test_a_closed_page_says_what_became_of_it_and_has_no_buttons(state, changes, said):
    """It never says “approved” if nobody approved. The question stays readable."""
    shown = build_page(approval(state, **changes), zone="UTC")

    assert shown.lines[0].startswith(said)
    assert shown.choices == ()
    assert question().subject in shown.lines
    assert explain_closed(approval(state, **changes))


def test_a_page_after_ones_own_click_names_the_note():
    """After a double click, the page shows the note of the first click."""
    decided = {"became": "approved", "moved_by": ANN, "moved_at": UNTIL, "is_own": True, "note": "Please do."}

    shown = build_page(approval(LinkState.DECIDED, **decided), zone="UTC")

    assert shown.lines[:2] == (
        f"Decided by you ({ANN}) on Friday, 03 July 2026, 16:30 UTC: approved.",
        "Note: Please do.",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": ""},
        {"subject": "two\nlines"},
        {"subject": "x" * 201},
        {"subject": "right \u202e left"},
        {"lines": ("NUL \x00",)},
        {"lines": ("bell \x07",)},
        {"lines": ("x" * 20_001,)},
        {"choices": ()},
        {"choices": (DecisionChoice(into="a", label="A"), DecisionChoice(into="a", label="B"))},
        {"until": datetime(2026, 7, 3, 16, 30)},  # noqa: DTZ001 - a naive time is refused
        {"facts": (Fact(label="x", value="y"),) * 101},
        {"unknown": 1},
    ],
)
def test_a_question_that_cannot_be_shown_is_refused(changes):
    """It is refused before a mail is written."""
    with pytest.raises(ValidationError):
        question(**changes)


def test_a_question_is_kept_and_read_again():
    """The stored question is read back unchanged."""
    asked = question(until=datetime.now(UTC) + timedelta(days=1))

    assert Question.model_validate(asked.model_dump(mode="json")) == asked
    assert asked.label("approved") == "Send it"


def test_a_question_takes_what_people_write():
    """Non-breaking spaces, soft hyphens, joined emoji and CRLF line ends are accepted."""
    asked = question(lines=("30\u00a0000\u202f£, Bäcker\u00adei \U0001f469\u200d\U0001f373\r\nnext",))

    assert asked.lines == ("30\u00a0000\u202f£, Bäcker\u00adei \U0001f469\u200d\U0001f373\nnext",)


def test_tokens_cannot_be_guessed_and_have_one_form():
    """A token has 256 random bits; its hash has 32 bytes."""
    made = {new_token() for _ in range(100)}

    assert len(made) == 100
    assert all(is_token(token) and len(token_hash(token)) == 32 for token in made)
    assert not any(is_token(text) for text in ("", "a" * 42, "a" * 44, "a" * 42 + "=", "ä" * 43))
