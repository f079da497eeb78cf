"""A content that is made of several columns: ``{title}: {description}``. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from workers.ingestion.blank import is_blank
from workers.ingestion.refusals import Unreadable, listed
from workers.runtime.refusals import quoted

# A doubled brace is a brace.
_PART = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|(?P<lone>[{}])|[^{}]+")


def is_template(text: str) -> bool:
    """Tell whether ``text`` names columns in braces."""
    return any(found["name"] is not None for found in _PART.finditer(text))


@dataclass(frozen=True, slots=True)
class Template:
    """Texts, and between them the places of columns, with their names: ``texts`` has one more than ``places``."""

    texts: tuple[str, ...]
    places: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, text: str, columns: Sequence[str], *, place: Callable[[str], int | None]) -> Self:
        """Return the template that ``text`` is; raise Unreadable for a column that is not there."""
        texts, places = [""], list[int]()
        for part in _PART.finditer(text):
            if part["lone"]:
                raise Unreadable(f"content is mapped to {quoted(text)}, which has a brace that stands alone: "
                                 f"write {part['lone'] * 2} for one in the text")  # fmt: skip
            if part["name"] is None:
                texts[-1] += part[0][:1] if part[0] in {"{{", "}}"} else part[0]
                continue
            found = place(part["name"])
            if found is None:
                raise Unreadable(f"content is mapped to {quoted(text)}, but {quoted(part['name'])} is no column of the "
                                 f"file; its columns: {listed(list(columns))}")  # fmt: skip
            places.append(found)
            texts.append("")
        return cls(tuple(texts), tuple(places), tuple(columns[place] for place in places))

    def filled(self, cells: Sequence[str]) -> str:
        """Return the content of a row whose columns at ``places`` have ``cells``; empty where all of them are."""
        if all(map(is_blank, cells)):
            return ""
        return self.texts[0] + "".join([f"{cell}{text}" for cell, text in zip(cells, self.texts[1:], strict=True)])
