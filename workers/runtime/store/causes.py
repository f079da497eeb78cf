"""The cause of an error: its text without the parts that differ from job to job. Pure."""

import re

# Replaces each part of an error that differs from job to job. `--error` accepts it as "any text".
PLACEHOLDER = "…"
MAX_CAUSE_CHARACTERS = 160

_DIFFERS = re.compile(
    r"""
      \b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b   # a UUID
    | '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `[^`]*` | «[^»]*» | “[^”]*”                # a quoted text
    | \b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?            # a time
    | \b0x[0-9a-fA-F]+\b
    | \b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\b                                            # a digest
    | \b[A-Za-z]+[-_](?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,}\b                                # an id such as req_9f3a2b1c
    | \d+(?:[.,:]\d+)*                                                                  # a number
    """,
    re.VERBOSE,
)
_REPEATED = re.compile(rf"(?:{PLACEHOLDER}[\s,;]*)+{PLACEHOLDER}")
# Status codes stay in the text, because 401 and 503 are different causes with different repairs.
_STATUS = re.compile(r"(?<![\d.,:-])[1-5]\d\d(?![\d.,:-]*\d)")


def cause_of(error: str | None) -> str:
    """Return the cause of ``error``: ids, numbers, times and quoted texts become ``…``; HTTP status codes stay.

    A search that accepts any text for ``…`` finds the error again, even if the cause was cut.
    """
    text = error or ""
    made = _DIFFERS.sub(lambda found: found[0] if _STATUS.fullmatch(found[0]) else PLACEHOLDER, text)
    made = re.sub(r"[^\S ]+| {2,}|[\x00-\x1f\x7f-\x9f]+", PLACEHOLDER, made)
    made = _REPEATED.sub(PLACEHOLDER, made).strip()
    if len(made) <= MAX_CAUSE_CHARACTERS:
        return made
    return made[: MAX_CAUSE_CHARACTERS - 1].rstrip() + PLACEHOLDER
