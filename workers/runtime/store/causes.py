"""What errors have in common: their text without what differs from job to job. Pure."""

import re

# What stands in a cause for anything that differs; also what `--error` takes for anything.
ANYTHING = "…"
LONGEST = 160

_DIFFERS = re.compile(
    r"""
      \b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b   # a UUID
    | '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `[^`]*` | «[^»]*» | “[^”]*”                # what is quoted
    | \b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?            # a time
    | \b0x[0-9a-fA-F]+\b
    | \b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\b                                            # a digest
    | \b[A-Za-z]+[-_](?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,}\b                                # an id such as req_9f3a2b1c
    | \d+(?:[.,:]\d+)*                                                                  # a number
    """,
    re.VERBOSE,
)
_REPEATED = re.compile(rf"(?:{ANYTHING}[\s,;]*)+{ANYTHING}")
# Status codes tell causes apart: 401 and 503 are mended in different ways.
_STATUS = re.compile(r"(?<![\d.,:-])[1-5]\d\d(?![\d.,:-]*\d)")


def fingerprint(error: str | None) -> str:
    """Return the cause that ``error`` tells: ids, numbers, times and quoted texts stand as ``…``, HTTP's codes stay.

    It is found again by a search that takes ``…`` for anything, however long the error is.
    """
    text = error or ""
    made = _DIFFERS.sub(lambda found: found[0] if _STATUS.fullmatch(found[0]) else ANYTHING, text)
    made = re.sub(r"[^\S ]+| {2,}|[\x00-\x1f\x7f-\x9f]+", ANYTHING, made)
    made = _REPEATED.sub(ANYTHING, made).strip()
    return made if len(made) <= LONGEST else made[: LONGEST - 1].rstrip() + ANYTHING
