"""Read the rows of a sheet as the confined process writes them: one JSON array per line. Used like ``CsvRecords``."""

import json
from collections.abc import Iterator

from workers.ingestion.csv_records import REPLACEMENT, Damage


class SheetRows:
    """The rows below row ``skip``. ``line`` and ``start`` are the numbers that Excel shows.

    Empty rows are left out. Each row has a cell for every column of the header, and any further cells with text.
    """

    runaways = 0
    giving_up = False

    def __init__(self, *, skip: int = 0, width: int = 0) -> None:
        self.line = self.start = self.replaced = 0
        self._skip, self._width = skip, width
        self._partial = ""

    def feed(self, text: str, *, final: bool = False) -> Iterator[list[str] | Damage]:
        """Yield the rows that ``text`` completes; exhaust this before you feed more."""
        lines = (self._partial + text).split("\n")
        self._partial = "" if final else lines.pop()
        for line in filter(None, lines):
            number, *cells = json.loads(line)
            self.line = number
            if number > self._skip:
                self.start = number
                yield self._clean(cells)

    def _clean(self, cells: list[str]) -> list[str]:
        for place, cell in enumerate(cells):
            if "\x00" in cell:
                self.replaced += cell.count("\x00")
                cells[place] = cell.replace("\x00", REPLACEMENT)
        return cells + [""] * (self._width - len(cells))
