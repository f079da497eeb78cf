"""The one rule for names and ids that people and services give, at every door. The database has the same rule.

Pure. ``runtime.is_name`` (migrations/sql/0012/names.sql) is the rule in SQL; a test compares both.
"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from workers.runtime.refusals import Problem, quoted

MAX_NAME_CHARACTERS = 255
NAME_RULE = "without control or invisible characters and without a blank at either end"

# Invisible characters: controls, line ends, the blank of Braille, Unicode's Default_Ignorable_Code_Point.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# The emoji style selector is valid only after a character that has an emoji form.
_LOST_STYLE = "(?<![#*0-9\xa9\xae\u203c-\u3299\U0001f000-\U0001faff])\ufe0f"
# Some languages use joiners of zero width inside words, but never at either end.
_ENDS = " \xa0\u1680\u2000-\u200a\u200c\u200d\u202f\u205f\u3000"
_WRONG = re.compile(f"[{_UNSEEN}\ud800-\udfff]|{_LOST_STYLE}|\\A[{_ENDS}]|[{_ENDS}]\\Z")
_ENDS_OR_UNSEEN = f"[{_UNSEEN}{_ENDS}\ud800-\udfff]"


def name_problem(name: str, *, longest: int = MAX_NAME_CHARACTERS) -> str | None:
    """Return the rule that ``name`` breaks, worded to follow the field's name, or None."""
    if 1 <= len(name) <= longest and not _WRONG.search(name):
        return None
    return f"must have 1 to {longest} characters, {NAME_RULE}"


def nfc(name: str) -> str:
    """Return ``name`` in Unicode's NFC form, which is stored: names that look the same are equal."""
    return unicodedata.normalize("NFC", name)


def file_name(name: str, *, longest: int, default: str) -> str:
    """Return the name of somebody's file, cleaned so that it can be stored: nobody must rename a file to upload it.

    A long name keeps its end, which says more.
    """
    visible = re.sub(f"(?:[{_UNSEEN}\ud800-\udfff]|{_LOST_STYLE})+", " ", nfc(name))[-longest:]
    kept = re.sub(f"\\A{_ENDS_OR_UNSEEN}+|{_ENDS_OR_UNSEEN}+\\Z", "", visible)
    return kept or default


def _name_check(longest: int) -> AfterValidator:
    def check(given: str) -> str:
        name = nfc(given)
        if (rule := name_problem(name, longest=longest)) is not None:
            raise ValueError(rule)
        return name

    return AfterValidator(check)


# Fields of a payload or a request: converted to NFC, refused if they break the rule.
Name = Annotated[str, _name_check(MAX_NAME_CHARACTERS)]
LongName = Annotated[str, _name_check(512)]


def check_name(
    field: str, given: str, *, longest: int = MAX_NAME_CHARACTERS, error: type[Exception] = ValueError
) -> str:
    """Return ``given`` as it is stored; raise ``error`` with the field, the rule and the value."""
    name = nfc(given)
    if (rule := name_problem(name, longest=longest)) is not None:
        raise error(Problem(field, rule, quoted(given)))
    return name
