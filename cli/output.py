"""Print results on standard output, as a table or as JSON, and remarks on standard error."""

import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.values import json_default
from workers.runtime.refusals import printable
from workers.runtime.undecodable import Undecodable

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# The width without a terminal: a program that reads the pipe needs whole ids.
_PIPE_WIDTH = 10_000
# Each level of a value needs a stack frame when it is printed.
_MAX_DEPTH = 200
# Columns that are never cut or wrapped: people copy them into the next command, or look for them first.
_UNCUT_COLUMNS = frozenset({"ID", "STAGE", "STATUS", "STATE", "ASSESSMENT", "ANALYSIS", "RECORD", "WINDOW", "ROLE"})
# A text column is not made narrower than this.
_MIN_TEXT_WIDTH = 20
_GAP = 2
_INDENT = "    "


def print_json(value: Any) -> None:
    """Print ``value``: dataclasses as objects, durations in seconds with ``_seconds`` added to their names.

    NaN and infinite numbers become null, because JSON has none and a strict reader would refuse the whole document.
    """
    print(json.dumps(to_json(value), indent=2, ensure_ascii=False, default=json_default, allow_nan=False))


def to_json(value: Any, *, depth: int = 0) -> Any:
    """Return ``value`` as a value that JSON can hold. A value that is nested too deeply becomes a text that says so."""
    if depth > _MAX_DEPTH:
        return str(Undecodable("its JSON is nested too deeply to be shown"))
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {
            f"{key}_seconds" if _is_span(key, item) else key: to_json(item, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [to_json(item, depth=depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_span(key: str, value: Any) -> bool:
    """Return whether a field holds a duration. A null one is recognised by its name, so that its key is the same."""
    if isinstance(value, Undecodable) or value is None:
        return key in {"oldest_wait", "age"}
    return hasattr(value, "total_seconds")


_ID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that wraps lines on a terminal only."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def status_text(status: str) -> str:
    """Return a status in lower case, as people see it. JSON has it as it is stored."""
    return status.lower()


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    keep: Iterable[str] = (),
    optional: Iterable[str] = (),
    width: int = _PIPE_WIDTH,
) -> RenderableType:
    """Return a table that fits into ``width`` characters. If none fits, return one block per row.

    A column with ``>`` before its name has numbers, aligned right. These columns, ids, statuses and ``keep`` are never
    cut or wrapped. The others wrap as long as they stay readable, never within a path or an id. If the table does not
    fit, the columns of ``optional`` that are zero or empty in every row are left out.
    """
    names = [column.removeprefix(">") for column in columns]
    numbers = [column.startswith(">") for column in columns]
    whole = [number or name in {*keep, *_UNCUT_COLUMNS} for name, number in zip(names, numbers, strict=True)]
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = _widths(names, cells, whole, width)
    if widths is None and (places := _without_empty(names, cells, set(optional))) != list(range(len(names))):
        kept = [[row[place] for place in places] for row in cells]
        return make_table([columns[place] for place in places], kept, keep=keep, width=width)
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
    """Return the maximum width of each column (None: not limited); return None if no table fits."""
    natural = [
        max([cell_len(name), *(cell_len(row[place]) for row in cells)], default=0) for place, name in enumerate(names)
    ]
    spare = width - _GAP * len(names) - sum(one for one, kept in zip(natural, whole, strict=True) if kept)
    if spare >= sum(one for one, kept in zip(natural, whole, strict=True) if not kept):
        return [None] * len(names)
    wrapping = [place for place, kept in enumerate(whole) if not kept]
    bounds: list[int | None] = [None] * len(names)
    min_widths = {
        place: max([min(natural[place], _MIN_TEXT_WIDTH), *(_longest_unbreakable(row[place]) for row in cells)])
        for place in wrapping
    }
    spare -= sum(min_widths.values())
    if spare < 0:
        return None
    narrowest_first = sorted(wrapping, key=lambda place: natural[place])
    for left, place in zip(range(len(narrowest_first), 0, -1), narrowest_first, strict=True):
        more = min(natural[place] - min_widths[place], spare // left)  # wider columns get the rest of narrow ones
        bounds[place] = min_widths[place] + more
        spare -= more
    return bounds


def _longest_unbreakable(cell: str) -> int:
    """Return the width of the longest path or id in a cell. It must not be broken: people copy it."""
    return max((cell_len(word) for word in cell.split() if "/" in word or _ID.search(word)), default=0)


def _without_empty(names: Sequence[str], cells: Sequence[Sequence[str]], optional: set[str]) -> list[int]:
    """Return the places of the columns that are not optional, or not empty."""
    return [
        place
        for place, name in enumerate(names)
        if name not in optional or any(row[place] not in {"", "0", "–"} for row in cells)
    ]


def _blocks(
    names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], numbers: Sequence[bool], width: int
) -> RenderableType:
    """Return each row as a block: the first column and the statuses first, then the others with their names."""
    top = [place for place, name in enumerate(names) if place == 0 or (whole[place] and name in _UNCUT_COLUMNS)]
    blocks = Text(no_wrap=True, overflow="ignore")  # wrapped here; a path or an id that is too long stays whole
    for row in cells:
        # A number needs its name.
        named = [f"{names[place].lower()} {row[place]}" if numbers[place] else row[place] for place in top]
        titles = [Text(title, style="bold" if n == 0 else "") for n, title in enumerate(named) if title]
        rest = [(names[place].lower(), row[place]) for place in range(len(names)) if place not in top]
        named_values = [f"{name}: {value}" if name else value for name, value in rest if value]
        for line in (*_filled(titles, "  ", width), *_indented(named_values, width)):
            blocks.append_text(line).append("\n")
    blocks.rstrip()
    return Group(blocks)  # without a group, the console would wrap the text once more


def _filled(parts: Sequence[Text], between: str, width: int) -> Iterator[Text]:
    """Yield lines of ``parts``, with as many whole parts on each line as fit."""
    line = Text()
    for part in parts:
        if line and line.cell_len + len(between) + part.cell_len > width:
            yield line
            line = Text()
        line.append(between if line else "").append_text(part)
    if line:
        yield line


def _indented(values: Sequence[str], width: int) -> Iterator[Text]:
    """Yield the named values of a block; one that is longer than a line is wrapped between words."""
    room = max(width - len(_INDENT), _MIN_TEXT_WIDTH)
    for line in _filled([Text(text) for text in values], ", ", room):
        for part in _filled([Text(word) for word in line.plain.split(" ")], " ", room):
            yield Text(_INDENT).append_text(part)


def _cell(value: object) -> str:
    return "" if value is None else printable(" ".join(str(value).split()))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    keep: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> None:
    """Print a table as wide as the terminal; in a pipe each row is one whole line with all columns."""
    console = make_console()
    console.print(
        make_table(columns, rows, keep=keep, optional=optional, width=console.width),
        crop=False,
        overflow="fold",
        markup=False,
    )


def one_line(value: object) -> str:
    """Return ``value`` on one line, as JSON if it is a list or an object."""
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    text = (
        json.dumps(to_json(value), ensure_ascii=False, default=str) if isinstance(value, (dict, list)) else str(value)
    )
    return " ".join(text.split())


def print_wrapped(lines: Iterable[str], *, indent: int | None = None) -> None:
    """Print lines. On a terminal, wrap each between words. Its further lines begin after ``indent`` blanks.

    Without ``indent`` they begin two blanks further than the line itself.
    """
    width = make_console().width
    for line in lines:
        safe = printable(line)
        hang = " " * (len(safe) - len(safe.lstrip()) + 2 if indent is None else indent)
        wrapped = textwrap.wrap(
            safe, max(width, _MIN_TEXT_WIDTH), subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
        )
        print("\n".join(wrapped), flush=True)


def remark(line: str) -> None:
    """Print one line that is not part of the result, on standard error."""
    print(printable(line), file=sys.stderr, flush=True)
