"""Find out whether text is visible to a person."""

import re

# Besides blanks: control and format characters (zero-width ones, direction marks, byte order marks, soft hyphens,
# tags), Hangul fillers, the empty braille pattern, joiners and variation selectors.
_INVISIBLE = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
_VISIBLE = re.compile(rf"[^\s{_INVISIBLE}]")
_EDGES = re.compile(rf"^[\s{_INVISIBLE}]+|[\s{_INVISIBLE}]+$")


def is_blank(text: str) -> bool:
    """Return whether ``text`` looks empty to a person."""
    return _VISIBLE.search(text) is None


def trim(text: str) -> str:
    """Return ``text`` without invisible characters at its ends."""
    return _EDGES.sub("", text)
