"""A template that makes a content from several columns: ``{title}: {description}``. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from workers.ingestion.blank import is_blank
from workers.ingestion.refusals import Unreadable, quote_names
from workers.runtime.refusals import quoted

# A doubled brace stands for one brace.
_PART = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|(?P<lone>[{}])|[^{}]+")


def is_template(text: str) -> bool:
    """Return whether ``text`` has column names in braces."""
    return any(found["name"] is not None for found in _PART.finditer(text))


@dataclass(frozen=True, slots=True)
class Template:
    """Texts with columns between them. ``places`` and ``names`` are the columns; ``texts`` has one more."""

    texts: tuple[str, ...]
    places: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, text: str, columns: Sequence[str], *, place: Callable[[str], int | None]) -> Self:
        """Return the template in ``text``; raise Unreadable if a column is missing."""
        texts, places = [""], list[int]()
        for part in _PART.finditer(text):
            if part["lone"]:
                raise Unreadable(f"content is mapped to {quoted(text)}, which has a single brace: "
                                 f"write {part['lone'] * 2} for a brace in the text")  # fmt: skip
            if part["name"] is None:
                texts[-1] += part[0][:1] if part[0] in {"{{", "}}"} else part[0]
                continue
            found = place(part["name"])
            if found is None:
                raise Unreadable(f"content is mapped to {quoted(text)}, but {quoted(part['name'])} is not a column of "
                                 f"the file; its columns: {quote_names(list(columns))}")  # fmt: skip
            places.append(found)
            texts.append("")
        return cls(tuple(texts), tuple(places), tuple(columns[place] for place in places))

    def filled(self, cells: Sequence[str]) -> str:
        """Return the content of a row with these ``cells`` at ``places``; empty if all of them are blank."""
        if all(map(is_blank, cells)):
            return ""
        return self.texts[0] + "".join([f"{cell}{text}" for cell, text in zip(cells, self.texts[1:], strict=True)])
