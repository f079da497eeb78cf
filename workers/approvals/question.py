"""What a person is asked, as pure data: the same for the mail and for the page, and kept as it was shown."""

import re
from datetime import datetime
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_LINES, MAX_FACTS, MAX_CHOICES = 200, 100, 20


# Controls, and marks that turn the direction of writing: with those, a page would not show what is kept.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _visible(text: str) -> str:
    if _HIDDEN.search(plain := text.replace("\r\n", "\n")):
        raise ValueError("must not contain control characters or marks of direction")
    return plain


Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\r\n]+$"), AfterValidator(_visible)]
Paragraph = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_visible)]


class Fact(BaseModel):
    """One thing to decide on: a name and what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Line
    value: Paragraph


class Choice(BaseModel):
    """One decision: the state that it leads to, and the words on its button."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    into: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    label: Line


class Question(BaseModel):
    """What is asked, until when, and what may be answered.

    It holds exactly what the decision is about: who changes that, asks anew. ``silence`` says what happens if nobody
    decides, as a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Line
    lines: tuple[Paragraph, ...] = Field(max_length=MAX_LINES)
    facts: tuple[Fact, ...] = Field((), max_length=MAX_FACTS)
    choices: tuple[Choice, ...] = Field(min_length=1, max_length=MAX_CHOICES)
    until: AwareDatetime
    silence: Line

    @model_validator(mode="after")
    def _names_each_choice_once(self) -> Self:
        names = [choice.into for choice in self.choices]
        if len(set(names)) < len(names):
            raise ValueError("each choice must lead to a state of its own")
        return self

    def label(self, into: str) -> str:
        """Return the words for the decision that leads to ``into``."""
        return next((choice.label for choice in self.choices if choice.into == into), into)


def moment(at: datetime, zone: str) -> str:
    """Return a time for people: in their zone, with its name, and in UTC where that differs."""
    here, utc = at.astimezone(ZoneInfo(zone)), at.astimezone(ZoneInfo("UTC"))
    shown = f"{here:%A, %d %B %Y, %H:%M} {here.tzname()}"
    return shown if here.utcoffset() == utc.utcoffset() else f"{shown} ({utc:%Y-%m-%d %H:%M} UTC)"
