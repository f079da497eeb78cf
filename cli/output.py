"""What commands print: results on standard output, as a table or as JSON; remarks on standard error."""

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.values import jsonable
from workers.runtime.undecodable import Undecodable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Without a terminal nothing is cut: whoever reads a pipe wants whole ids.
_UNBOUNDED = 10_000
# Printing goes a frame deeper for each level.
_DEEPEST = 200
# C0 and C1 but for line feed and tab.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """Print ``value``: dataclasses as objects, durations in seconds under names that say so."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, default=jsonable, allow_nan=False))


def plain(value: Any, *, depth: int = 0) -> Any:
    """Return ``value`` as JSON can have it, whatever a table held: what is too deep or no number is told as text."""
    if depth > _DEEPEST:
        return str(Undecodable("its JSON is nested too deeply to be shown"))
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {
            f"{key}_seconds" if _is_span(key, item) else key: plain(item, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item, depth=depth + 1) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_span(key: str, value: Any) -> bool:
    """Tell the fields that hold durations by their names, so that a null one is named like the others."""
    if isinstance(value, Undecodable) or value is None:
        return key in {"oldest_wait", "age"}
    return hasattr(value, "total_seconds")


def console(*, stderr: bool = False) -> "Console":
    """Return a console that wraps on a terminal and nowhere else."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNBOUNDED
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, keep: Iterable[str] = ()) -> "Table":
    """Return a table of plain texts. Columns named with ``>`` in front are aligned right; ``keep`` never wrap."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        name = column.removeprefix(">")
        made.add_column(name, justify="right" if column != name else "left", no_wrap=name in set(keep))
    for row in rows:
        made.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    return made


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: it may come from anybody's file, or from a model."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, keep: Iterable[str] = ()) -> None:
    """Print a table, whole lines on a pipe."""
    shown = console()
    shown.print(table(columns, rows, keep=keep), crop=False, overflow="fold")


def remark(line: str) -> None:
    """Print one line beside the result, on standard error."""
    print(line, file=sys.stderr, flush=True)
