"""What a mail and a page say about one question: the same facts, the deadline in two zones, no markup of users."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pydantic import ValidationError

from tests.support.approvals import ANN, CHOICES, question
from workers.approvals.decisions import Approval, State, said_of
from workers.approvals.links import is_token, new_token, token_hash
from workers.approvals.mails import asking
from workers.approvals.pages import page
from workers.approvals.question import Choice, Fact, Question, moment

UNTIL = datetime(2026, 7, 3, 16, 30, tzinfo=UTC)
LINK = "https://mill.example/approvals/t0ken"


def letter(**changes):
    return asking(
        question(until=UNTIL), **{"recipient": ANN, "link": LINK, "zone": "America/New_York", "key": "k", **changes}
    )


def approval(state: State = State.OPEN, **changes) -> Approval:
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
    """In its text and in its HTML; opening the link decides nothing."""
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
    """No markup of a posting or of a model acts in a mail program."""
    html = letter().html or ""

    assert "&lt;Ms Miller&gt;,<br>I am a baker." in html
    assert "<Ms Miller>" not in html


def test_a_reminder_says_that_it_is_one():
    """The rest is the same."""
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
def test_a_time_is_told_in_the_zone_of_the_reader_and_in_utc(zone, shown):
    """Once where both are the same."""
    assert moment(UNTIL, zone) == shown


def test_an_open_page_asks_with_the_words_of_the_mail():
    """And says as whom its reader decides: a mail can be forwarded."""
    shown = page(approval(), zone="UTC")

    assert shown.title == question().subject
    assert shown.choices == CHOICES
    assert shown.facts == question().facts
    assert shown.lines[:2] == question().lines
    assert shown.lines[-1] == f"You decide as {ANN}."


CLOSED = {
    State.DECIDED: ({"became": "rejected", "moved_by": "boris", "moved_at": UNTIL}, "Decided by boris on Friday"),
    State.EXPIRED: ({}, "The time to decide ended on Friday, 03 July 2026, 16:30 UTC. If you do not decide"),
    State.CANCELLED: ({"moved_at": UNTIL}, "Cancelled on Friday, 03 July 2026, 16:30 UTC."),
    State.REVOKED: ({}, f"The link for {ANN} was taken back."),
}


@pytest.mark.parametrize(("state", "changes", "said"), [(state, *rest) for state, rest in CLOSED.items()])
def test_a_closed_page_says_what_became_of_it_and_has_no_buttons(state, changes, said):
    """Never “approved” where nobody did; what was asked stays to be read."""
    shown = page(approval(state, **changes), zone="UTC")

    assert shown.lines[0].startswith(said)
    assert shown.choices == ()
    assert question().subject in shown.lines
    assert said_of(approval(state, **changes))


def test_a_page_after_ones_own_click_names_the_note():
    """So that a double click shows what the first one sent."""
    decided = {"became": "approved", "moved_by": ANN, "moved_at": UNTIL, "is_own": True, "note": "Please do."}

    shown = page(approval(State.DECIDED, **decided), zone="UTC")

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
        {"choices": (Choice(into="a", label="A"), Choice(into="a", label="B"))},
        {"until": datetime(2026, 7, 3, 16, 30)},  # noqa: DTZ001 - that is what is refused
        {"facts": (Fact(label="x", value="y"),) * 101},
        {"unknown": 1},
    ],
)
def test_a_question_that_cannot_be_shown_is_refused(changes):
    """Before any mail is written."""
    with pytest.raises(ValidationError):
        question(**changes)


def test_a_question_is_kept_and_read_again():
    """What is stored with the link is what was asked."""
    asked = question(until=datetime.now(UTC) + timedelta(days=1))

    assert Question.model_validate(asked.model_dump(mode="json")) == asked
    assert asked.label("approved") == "Send it"


def test_a_question_takes_what_people_write():
    """Spaces that do not break, soft hyphens, joined emoji, lines as forms send them."""
    asked = question(lines=("30\u00a0000\u202f£, Bäcker\u00adei \U0001f469\u200d\U0001f373\r\nnext",))

    assert asked.lines == ("30\u00a0000\u202f£, Bäcker\u00adei \U0001f469\u200d\U0001f373\nnext",)


def test_tokens_cannot_be_guessed_and_have_one_form():
    """256 random bits; a hash of 32 bytes is kept."""
    made = {new_token() for _ in range(100)}

    assert len(made) == 100
    assert all(is_token(token) and len(token_hash(token)) == 32 for token in made)
    assert not any(is_token(text) for text in ("", "a" * 42, "a" * 44, "a" * 42 + "=", "ä" * 43))
