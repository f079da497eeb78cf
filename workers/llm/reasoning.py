"""Tell a model's final answer from its drafts and its reasoning, in the forms in which models write them. Pure."""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
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


def objects_in(text: str, *, members: Collection[str] = ()) -> Iterator[dict[str, Any] | None]:
    """Yield the JSON objects that stand outside of reasoning, in their order.

    Marks inside of an object's strings are its own. An object that cannot be read but begins with one of ``members``
    is None: an answer that breaks off.
    """
    found: list[dict[str, Any] | None] = []
    begins = re.compile(rf'\{{\s*"(?:{"|".join(map(re.escape, sorted(members)))})"\s*:') if members else None
    for kind, start, value in _marks(text):
        match kind:
            case "close" if value != "opened":  # all before it was reasoning, though nothing said that it began
                found.clear()
            case "object" if isinstance(value, dict):
                found.append(value)
            case "object" if begins is not None and begins.match(text, start):
                found.append(None)
    yield from found


def without_reasoning(text: str) -> str:
    """Return what a model says beside its reasoning; nothing from where reasoning begins that never ends."""
    text = final_part(text)
    kept, begun = "", 0
    for kind, start, value in _marks(text):
        if kind == "close":
            kept, begun = kept if value == "opened" else "", _end_of(text, start)
        elif kind == "open":
            kept += text[begun:start]
            begun = len(text)
    return kept + text[begun:]


def _marks(text: str) -> Iterator[tuple[str, int, Any]]:
    """Yield each end of reasoning, each beginning of reasoning and each outermost object, with its place.

    With a close comes whether it was opened, with an object its value, None where it cannot be read.
    """
    decoder, place, tried = json.JSONDecoder(parse_int=whole_number), 0, 0
    while (mark := _MARK.search(text, place)) is not None:
        place = mark.end()
        if mark["open"]:
            yield "open", mark.start(), None
            if (closed := _CLOSED.search(text, place)) is None:
                return
            yield "close", closed.start(), "opened"
            place = closed.end()
        elif mark["close"]:
            yield "close", mark.start(), None
        elif (tried := tried + 1) > OBJECTS_TRIED:
            return
        else:
            value = None
            with suppress(ValueError, RecursionError):
                value, place = decoder.raw_decode(text, mark.start())
            yield "object", mark.start(), value


def _end_of(text: str, start: int) -> int:
    closed = _CLOSED.match(text, start)
    return closed.end() if closed else start
