"""What commands print: results on standard output, as a table or as JSON; remarks on standard error."""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.values import jsonable
from workers.runtime.refusals import printable
from workers.runtime.undecodable import Undecodable

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Without a terminal nothing is cut: whoever reads a pipe wants whole ids.
_UNBOUNDED = 10_000
# Printing goes a frame deeper for each level.
_DEEPEST = 200
# Never cut, never wrapped: what a person copies into the next command, or looks for first.
_WHOLE = frozenset({"ID", "STAGE", "STATUS", "STATE", "ASSESSMENT", "ANALYSIS", "RECORD", "WINDOW", "ROLE"})
# A text column narrower than this is no text any more.
_READABLE = 20
_GAP = 2
_INDENT = "    "


def print_json(value: Any) -> None:
    """Print ``value``: dataclasses as objects, durations in seconds under names that say so.

    A number that is none (NaN, an infinity) is null: JSON has no such, and a strict reader would refuse all of it.
    """
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, default=jsonable, allow_nan=False))


def plain(value: Any, *, depth: int = 0) -> Any:
    """Return ``value`` as JSON can have it, whatever a table held: what is too deep or no number is told as text."""
    if depth > _DEEPEST:
        return str(Undecodable("its JSON is nested too deeply to be shown"))
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {
            f"{key}_seconds" if _is_span(key, item) else key: plain(item, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item, depth=depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_span(key: str, value: Any) -> bool:
    """Tell the fields that hold durations by their names, so that a null one is named like the others."""
    if isinstance(value, Undecodable) or value is None:
        return key in {"oldest_wait", "age"}
    return hasattr(value, "total_seconds")


_ID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-")


def console(*, stderr: bool = False) -> Console:
    """Return a console that wraps on a terminal and nowhere else."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNBOUNDED
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def status_text(status: str) -> str:
    """Return a status as people see it: tables store it in either case, people read one. JSON keeps what is stored."""
    return status.lower()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    keep: Iterable[str] = (),
    may_go: Iterable[str] = (),
    width: int = _UNBOUNDED,
) -> RenderableType:
    """Return a table that fits into ``width`` characters, or one block a row where none does.

    Columns named with ``>`` in front hold numbers, aligned right. Those, ids, statuses and ``keep`` are never cut and
    never wrapped; the others wrap as far as they stay readable, and never within a path or an id. Columns of ``may_go``
    are left out if the table would not fit and they are zero or empty in every row.
    """
    names = [column.removeprefix(">") for column in columns]
    numbers = [column.startswith(">") for column in columns]
    whole = [number or name in {*keep, *_WHOLE} for name, number in zip(names, numbers, strict=True)]
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = _widths(names, cells, whole, width)
    if widths is None and (shown := _without_empty(names, cells, set(may_go))) != list(range(len(names))):
        kept = [[row[place] for place in shown] for row in cells]
        return table([columns[place] for place in shown], kept, keep=keep, width=width)
    if widths is None:
        return _blocks(names, cells, whole, numbers, width)

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for name, number, fits in zip(names, numbers, widths, strict=True):
        made.add_column(
            name, justify="right" if number else "left", no_wrap=fits is None, max_width=fits, overflow="fold"
        )
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def _widths(
    names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], width: int
) -> list[int | None] | None:
    """Return the bound of each column, None for one that needs none; None for all where no table fits."""
    natural = [
        max([cell_len(name), *(cell_len(row[place]) for row in cells)], default=0) for place, name in enumerate(names)
    ]
    spare = width - _GAP * len(names) - sum(one for one, kept in zip(natural, whole, strict=True) if kept)
    if spare >= sum(one for one, kept in zip(natural, whole, strict=True) if not kept):
        return [None] * len(names)
    wrapping = [place for place, kept in enumerate(whole) if not kept]
    bounds: list[int | None] = [None] * len(names)
    least = {
        place: max([min(natural[place], _READABLE), *(_unbroken(row[place]) for row in cells)]) for place in wrapping
    }
    spare -= sum(least.values())
    if spare < 0:
        return None
    narrowest_first = sorted(wrapping, key=lambda place: natural[place])
    for left, place in zip(range(len(narrowest_first), 0, -1), narrowest_first, strict=True):
        more = min(natural[place] - least[place], spare // left)  # what a narrow column leaves goes to the wider ones
        bounds[place] = least[place] + more
        spare -= more
    return bounds


def _unbroken(cell: str) -> int:
    """Return the width of the longest path or id in a cell: broken, nobody could copy it."""
    return max((cell_len(word) for word in cell.split() if "/" in word or _ID.search(word)), default=0)


def _without_empty(names: Sequence[str], cells: Sequence[Sequence[str]], may_go: set[str]) -> list[int]:
    """Return the places of the columns that say something."""
    return [
        place
        for place, name in enumerate(names)
        if name not in may_go or any(row[place] not in {"", "0", "–"} for row in cells)
    ]


def _blocks(
    names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], numbers: Sequence[bool], width: int
) -> RenderableType:
    """Return every row as a block: its first column and its statuses on top, the rest below, each with its name."""
    top = [place for place, name in enumerate(names) if place == 0 or (whole[place] and name in _WHOLE)]
    shown = Text(no_wrap=True, overflow="ignore")  # wrapped here, and a path or an id that is too long goes on whole
    for row in cells:
        # A bare number as a title says nothing.
        named = [f"{names[place].lower()} {row[place]}" if numbers[place] else row[place] for place in top]
        titles = [Text(title, style="bold" if n == 0 else "") for n, title in enumerate(named) if title]
        rest = [(names[place].lower(), row[place]) for place in range(len(names)) if place not in top]
        told = [f"{name}: {value}" if name else value for name, value in rest if value]
        for line in (*_filled(titles, "  ", width), *_indented(told, width)):
            shown.append_text(line).append("\n")
    shown.rstrip()
    return Group(shown)  # a text by itself would be joined with others and lose that it is wrapped


def _filled(parts: Sequence[Text], between: str, width: int) -> Iterator[Text]:
    """Yield lines of ``parts``, as many on each as fit whole."""
    line = Text()
    for part in parts:
        if line and line.cell_len + len(between) + part.cell_len > width:
            yield line
            line = Text()
        line.append(between if line else "").append_text(part)
    if line:
        yield line


def _indented(told: Sequence[str], width: int) -> Iterator[Text]:
    """Yield the named values of a block; one that is longer than a line goes on below, from word to word."""
    room = max(width - len(_INDENT), _READABLE)
    for line in _filled([Text(text) for text in told], ", ", room):
        for part in _filled([Text(word) for word in line.plain.split(" ")], " ", room):
            yield Text(_INDENT).append_text(part)


def _cell(value: object) -> str:
    return "" if value is None else printable(" ".join(str(value).split()))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    keep: Iterable[str] = (),
    may_go: Iterable[str] = (),
) -> None:
    """Print a table as wide as the terminal; on a pipe each row is one whole line, and no column goes."""
    shown = console()
    made = table(columns, rows, keep=keep, may_go=may_go, width=shown.width)
    shown.print(made, crop=False, overflow="fold", markup=False)


def remark(line: str) -> None:
    """Print one line beside the result, on standard error."""
    print(printable(line), file=sys.stderr, flush=True)
