"""The question to a person, as data: the mail and the page show the same one, and it is stored as shown. Pure."""

import re
from datetime import datetime
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_LINES, MAX_FACTS, MAX_CHOICES = 200, 100, 20


# Control characters and marks of text direction: a page would not show them as they are stored.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _check_visible(text: str) -> str:
    if _HIDDEN.search(plain := text.replace("\r\n", "\n")):
        raise ValueError("must not contain control characters or marks of direction")
    return plain


Line = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\r\n]+$"), AfterValidator(_check_visible)
]
Paragraph = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_check_visible)]


class Fact(BaseModel):
    """One fact to decide on: a label and a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Line
    value: Paragraph


class DecisionChoice(BaseModel):
    """One possible decision: the state that it leads to, and the text of its button."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    into: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    label: Line


class Question(BaseModel):
    """A question, its deadline and its possible answers.

    It holds exactly what is decided. If that changes, ask a new question. ``silence`` is a sentence that says what
    happens if nobody decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Line
    lines: tuple[Paragraph, ...] = Field(max_length=MAX_LINES)
    facts: tuple[Fact, ...] = Field((), max_length=MAX_FACTS)
    choices: tuple[DecisionChoice, ...] = Field(min_length=1, max_length=MAX_CHOICES)
    until: AwareDatetime
    silence: Line

    @model_validator(mode="after")
    def _names_each_choice_once(self) -> Self:
        names = [choice.into for choice in self.choices]
        if len(set(names)) < len(names):
            raise ValueError("each choice must lead to a state of its own")
        return self

    def label(self, into: str) -> str:
        """Return the label of the decision that leads to ``into``."""
        return next((choice.label for choice in self.choices if choice.into == into), into)


def format_time(at: datetime, zone: str) -> str:
    """Return a time for people: in their zone with its name, and also in UTC if that differs."""
    here, utc = at.astimezone(ZoneInfo(zone)), at.astimezone(ZoneInfo("UTC"))
    shown = f"{here:%A, %d %B %Y, %H:%M} {here.tzname()}"
    return shown if here.utcoffset() == utc.utcoffset() else f"{shown} ({utc:%Y-%m-%d %H:%M} UTC)"
