"""The rubric of a prompt: criteria with weights, written into a prompt and read from it. Pure.

A prompt is free text, optionally followed by its criteria::

    Judge how well this package serves a newcomer.

    Criteria:
    - documentation (35): a long description, usage examples, a link to the documentation
    - clarity (25): says what it does and for whom,
      in plain words

The heading is a line ``Criteria:``. The next line must begin with ``- ``. Each line of the list is
``- name (weight): description``. Either all weights are given or none, and then all are equal. A description may
continue in indented lines. A blank line ends the list. A prompt without a list is judged by ``DEFAULT_CRITERIA``.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workers.judging.criteria import MAX_CRITERIA, MAX_NAME, MAX_WEIGHT, MIN_WEIGHT, Criterion, first_repeated

_HEADING = re.compile(r"^[ \t]*criteria:[ \t]*\r?\n(?=- )", re.IGNORECASE | re.MULTILINE)
_LINE = re.compile(r"- *(?P<name>[^():\s][^():]*?) *(?:\((?P<weight>[^()]*)\))? *(?:: *(?P<description>.*))?")


class RubricError(ValueError):
    """A prompt's criteria cannot be read; the message names the line and the rule."""


def criterion(name: str, weight: float, description: str) -> Criterion:
    """Return a criterion; raise RubricError if its line in a prompt could not be read back as the same criterion."""
    if not name or name != " ".join(name.split()) or re.search("[():]", name):
        raise RubricError(f"criterion name must be one line without brackets or colons, got {name[:80]!r}")
    if len(name) > MAX_NAME:
        raise RubricError(f"criterion name must have at most {MAX_NAME} characters, got {name[:40]!r}…")
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise RubricError(f"weight of {name!r} must be from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, got {weight:g}")
    return Criterion(name=name, weight=weight, description=description)


class Prompt(NamedTuple):
    """The two parts of a prompt: the task in free text, and the criteria."""

    task: str
    criteria: tuple[Criterion, ...]


DEFAULT_CRITERIA = (
    criterion("relevance", 40, "the profile has what the task asks for"),
    criterion("evidence", 35, "claims are backed by facts, numbers, links, named references or results"),
    criterion("clarity", 25, "a summary or description says plainly what or who this is and for whom"),
)

PACKAGE_CRITERIA = (
    criterion(
        "documentation",
        35,
        "documentation link, long description, installation instructions, usage examples, API reference",
    ),
    criterion("clarity", 25, "a summary says what it does and for whom; the description lists features and use cases"),
    criterion("maintenance", 25, "a recent release, stable status, supported Python versions, issue tracker, tests"),
    criterion("openness", 15, "an open source license, public repository, homepage, named author, how to contribute"),
)


def split(prompt: str) -> Prompt:
    """Split a prompt into task and criteria; raise RubricError with the line that breaks the grammar."""
    heading = _HEADING.search(prompt)
    if heading is None:
        return Prompt(prompt.strip(), DEFAULT_CRITERIA)
    listed, _, after = re.sub(r"\r\n?", "\n", prompt[heading.end() :]).partition("\n\n")
    task = "\n\n".join(part for part in (prompt[: heading.start()].strip(), after.strip()) if part)
    return Prompt(task, _to_criteria([_parse_line(line) for line in _join_continued_lines(listed.splitlines())]))


def parse(prompt: str) -> tuple[Criterion, ...]:
    """Return the criteria of a prompt, or the default ones if it lists none; raise RubricError as ``split`` does."""
    return split(prompt).criteria


def render(criteria: Sequence[Criterion], *, task: str = "") -> str:
    """Return the prompt that ``split`` reads as this task and these criteria."""
    lines = [f"- {one.name} ({_format_weight(one.weight)}): {' '.join(one.description.split())}" for one in criteria]
    return "\n".join([*([task.strip(), ""] if task.strip() else []), "Criteria:", *lines])


def _format_weight(weight: float) -> str:
    return repr(weight).removesuffix(".0")


def _join_continued_lines(lines: Iterable[str]) -> list[str]:
    """Append each indented line to the line before it."""
    joined: list[str] = []
    for line in lines:
        if joined and line[:1] in " \t":
            joined[-1] += f" {line.strip()}"
        elif line.strip():
            joined.append(line.rstrip())
    return joined


def _parse_line(line: str) -> tuple[str, float | None, str]:
    read = _LINE.fullmatch(line)
    if read is None:
        raise RubricError(f"a criterion is written '- name (weight): description', got {line[:80]!r}")
    weight = read["weight"]
    if weight is not None and not re.fullmatch(r" *\d{1,4}(\.\d*)? *%? *", weight):
        raise RubricError(f"weight must be a number like 30, got {weight[:20]!r} in {line[:80]!r}")
    return read["name"], None if weight is None else float(weight.rstrip(" %")), (read["description"] or "").strip()


def _to_criteria(read: Sequence[tuple[str, float | None, str]]) -> tuple[Criterion, ...]:
    if len(read) > MAX_CRITERIA:
        raise RubricError(f"a rubric has at most {MAX_CRITERIA} criteria, got {len(read)}")
    weights = [weight for _, weight, _ in read]
    if None in weights and any(weights):
        raise RubricError("weights must be given for all criteria or for none")
    criteria = tuple(criterion(name, 1.0 if weight is None else weight, about) for name, weight, about in read)
    if twice := first_repeated(one.name for one in criteria):
        raise RubricError(f"criterion {twice.casefold()!r} is listed twice")
    return criteria


PACKAGE_PROMPT = render(
    PACKAGE_CRITERIA, task="Judge how well this software package presents itself to someone who may depend on it."
)
