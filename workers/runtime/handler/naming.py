"""The one rule for names and ids that people and services give, at every door. The database keeps the same.

Pure. ``runtime.is_name`` (migrations/sql/0012/names.sql) says it in SQL; a test holds both against each other.
"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from workers.runtime.refusals import Problem, quoted

LONGEST = 255
RULE = "without control or invisible characters and without a blank at either end"

_UNSEEN = "\x00-\x1f\x7f-\x9f\xad\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0"
# Joiners of width zero belong into words of some languages, and to no end of one.
_ENDS = " \xa0\u1680\u2000-\u200a\u200c\u200d\u202f\u205f\u3000"
_WRONG = re.compile(f"[{_UNSEEN}\ud800-\udfff]|\\A[{_ENDS}]|[{_ENDS}]\\Z")
_ENDS_OR_UNSEEN = f"[{_UNSEEN}{_ENDS}\ud800-\udfff]"


def fault(name: str, *, longest: int = LONGEST) -> str | None:
    """Return the rule that ``name`` breaks, in words that follow its field's name, or None."""
    if 1 <= len(name) <= longest and not _WRONG.search(name):
        return None
    return f"must have 1 to {longest} characters, {RULE}"


def nfc(name: str) -> str:
    """Return ``name`` in the one form that is kept: what looks the same is the same."""
    return unicodedata.normalize("NFC", name)


def file_name(name: str, *, longest: int, default: str) -> str:
    """Return the name of somebody's file as it can be kept: cleaned, for nobody renames a file to hand it in.

    Of a long one the end is kept, which tells more.
    """
    visible = re.sub(f"[{_UNSEEN}\ud800-\udfff]+", " ", nfc(name))[-longest:]
    kept = re.sub(f"\\A{_ENDS_OR_UNSEEN}+|{_ENDS_OR_UNSEEN}+\\Z", "", visible)
    return kept or default


def _named(longest: int) -> AfterValidator:
    def check(given: str) -> str:
        name = nfc(given)
        if (rule := fault(name, longest=longest)) is not None:
            raise ValueError(rule)
        return name

    return AfterValidator(check)


# Of a payload or a request: brought to NFC, refused where it breaks the rule.
Name = Annotated[str, _named(LONGEST)]
LongName = Annotated[str, _named(512)]


def named(field: str, given: str, *, longest: int = LONGEST, error: type[Exception] = ValueError) -> str:
    """Return ``given`` as it is kept; raise ``error`` naming the field, the rule and the value."""
    name = nfc(given)
    if (rule := fault(name, longest=longest)) is not None:
        raise error(Problem(field, rule, quoted(given)))
    return name
