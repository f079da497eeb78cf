"""Tell a model's final answer from its drafts and its reasoning, in the forms in which models write them. Pure."""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from workers.llm.wire import whole_number

OBJECTS_TRIED = 256

# <think>, <thinking>, <THINK>, <seed:think>, [THINK], ◁think▷, <|begin_of_thought|>: the mark, and what it begins.
_NAMES = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_OPEN = rf"<{_NAMES}(?:\s[^<>]*)?>|\[think\]|\u25c1think\u25b7|<\|begin_of_thought\|>"
_CLOSE = rf"</{_NAMES}\s*>|\[/think\]|\u25c1/think\u25b7|<\|end_of_thought\|>"
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})|(?P<object>\{{)", re.IGNORECASE)
_CLOSED = re.compile(_CLOSE, re.IGNORECASE)

# The channels of gpt-oss: analysis, commentary, final; and what is left of them where a server drops the marks.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.IGNORECASE)
_CHANNEL_ENDS = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
# How an object is introduced that is no answer, in the last sentence before it; one that only names a form may be one.
_EXAMPLE = re.compile(
    r"\b(?:examples?|e\.? ?g\.|for instance|samples?|placeholders?|hypothetical\w*|such as|dummy"
    r"|would (?:look|be) like|looks? like|would have been|beispiel|z\. ?b\.|exemple|ejemplo|esempio)",
    re.IGNORECASE,
)
_FORM = re.compile(r"\b(?:format|schema|template|structure|syntax)\b", re.IGNORECASE)
_FINAL = re.compile(
    r"\b(?:final(?:ly)?|answers?|results?|evaluation|assessment|verdict|revised|corrected|correction|updated|actually"
    r"|instead|therefore|thus|here(?:'s| is| are))\b",
    re.IGNORECASE,
)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z\W])|\n\s*\n")
_LINE_ENDS = re.compile(r"[ \t`]*(?:\r?\n|$|[<[\u25c1])")
_UNMARKED = re.compile(r"assistant\s*final(?=\W)")


def final_part(text: str) -> str:
    """Return the final channel of a text in channels, nothing where it has none; any other text as it is."""
    channels = [*_CHANNEL.finditer(text)]
    if channels:
        final = [channel.end() for channel in channels if channel[1].lower() == "final"]
        return _CHANNEL_ENDS.split(text[final[-1] :], maxsplit=1)[0] if final else ""
    if text.lstrip().startswith("analysis") and (unmarked := [*_UNMARKED.finditer(text)]):
        return text[unmarked[-1].end() :]
    return text


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON object that a model wrote; None if it begins as an answer does and breaks off.

    ``rank`` tells how it stands there: 2 as an answer does, alone on its lines or introduced as final, 0 introduced as
    an example, else 1.
    """

    value: dict[str, Any] | None
    rank: int


def objects_in(text: str, *, members: Collection[str] = ()) -> Iterator[Found]:
    """Yield the JSON objects that stand outside of reasoning, in their order.

    Marks inside of an object's strings are its own. An object that cannot be read but begins with one of ``members``
    is an answer that breaks off.
    """
    found: list[Found] = []
    said_since = 0
    begins = re.compile(rf'\{{\s*"(?:{"|".join(map(re.escape, sorted(members)))})"\s*:') if members else None
    for kind, start, end, value in _marks(text):
        before, said_since = text[said_since:start], end
        match kind:
            case "close" if value != "opened":  # all before it was reasoning, though nothing said that it began
                found.clear()
            case "object" if isinstance(value, dict):
                found.append(Found(value, _rank(before, text, end)))
            case "object" if begins is not None and begins.match(text, start):
                found.append(Found(None, 2 if _rank(before, text, end) else 0))
    yield from found


def _rank(before: str, text: str, end: int) -> int:
    """Return how an object stands between what was said ``before`` it and the text from its ``end``."""
    introduction = _SENTENCE_ENDS.split(before.rstrip(" \t\r\n`").removesuffix("json").rstrip(" \t\r\n`"))[-1]
    is_final = _FINAL.search(introduction) is not None
    if _EXAMPLE.search(introduction) or (_FORM.search(introduction) and not is_final):
        return 0
    line = before.rpartition("\n")[2].strip(" \t`\ufeff")
    return 2 if is_final or (line in {"", "json"} and _LINE_ENDS.match(text, end)) else 1


def has_reasoning(text: str) -> bool:
    """Return whether a text has reasoning beside its answer, in any of the forms known here."""
    marks = (kind for kind, *_ in _marks(text))
    return _CHANNEL.search(text) is not None or any(kind in {"open", "close"} for kind in marks)


def without_reasoning(text: str) -> str:
    """Return what a model says beside its reasoning; nothing from where reasoning begins that never ends."""
    text = final_part(text)
    kept, begun = "", 0
    for kind, start, end, value in _marks(text):
        if kind == "close":
            kept, begun = kept if value == "opened" else "", end
        elif kind == "open":
            kept += text[begun:start]
            begun = len(text)
    return kept + text[begun:]


def _marks(text: str) -> Iterator[tuple[str, int, int, Any]]:
    """Yield each end of reasoning, each beginning of reasoning and each outermost object, with where it is.

    With a close comes whether it was opened, with an object its value, None where it cannot be read.
    """
    decoder, place, tried = json.JSONDecoder(parse_int=whole_number), 0, 0
    while (mark := _MARK.search(text, place)) is not None:
        place = mark.end()
        if mark["open"]:
            yield "open", mark.start(), place, None
            if (closed := _CLOSED.search(text, place)) is None:
                return
            yield "close", closed.start(), closed.end(), "opened"
            place = closed.end()
        elif mark["close"]:
            yield "close", mark.start(), place, None
        elif (tried := tried + 1) > OBJECTS_TRIED:
            return
        else:
            value = None
            with suppress(ValueError, RecursionError):
                value, place = decoder.raw_decode(text, mark.start())
            yield "object", mark.start(), place, value
