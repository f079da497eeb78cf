"""What commands print: results on standard output, as a table or as JSON; remarks on standard error."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.values import jsonable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Without a terminal nothing is cut: whoever reads a pipe wants whole ids.
_UNBOUNDED = 10_000
# C0 and C1 but for line feed and tab.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """Print ``value``: dataclasses as objects, durations in seconds under names that say so."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=jsonable))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {f"{key}_seconds" if _is_span(key, item) else key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_span(key: str, value: Any) -> bool:
    """Tell the fields that hold durations by their names, so that a null one is named like the others."""
    return hasattr(value, "total_seconds") or (value is None and key in {"oldest_wait", "age"})


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
