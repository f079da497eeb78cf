"""Make records into chunks that Postgres copies in: what is decided here needs no database. The hot loop of ingestion.

A chunk holds each content once, in the order of contents: two jobs that insert the same ones wait for each other in
one order, and cannot deadlock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from json import dumps
from json.encoder import encode_basestring as as_json
from operator import itemgetter
from uuid import UUID

from workers.ingestion.blank import is_blank
from workers.ingestion.csv_records import Damage
from workers.ingestion.layout import MOST_EXTRA_CELLS, extra_names
from workers.ingestion.mapping import FIELDS, LONGEST_NAME, Places, category, is_other_type
from workers.ingestion.objects import Object, text_of
from workers.ingestion.tables import AnyRecord, Reader
from workers.ingestion.tally import Note, Reason, Skipped, Tally

CHUNK_RECORDS = 10_000
CHUNK_CHARACTERS = 8 * 1024 * 1024
CONTENT_LIMIT = 1_000_000
NAME_LIMIT = 255
_NULL = "\\N"
_ESCAPE, _ESCAPED = "\\", "\\\\"
# An id is so many digits; the last twelve of them count lines.
ID_DIGITS = 32
_LINE_BITS = 48
# Longer than the name of any category or type.
_SHORT = LONGEST_NAME + 1


@dataclass(slots=True)
class Chunk:
    """Records that are saved together, and what was skipped among them.

    ``rows`` are lines of COPY by their content: id, content, metadata, category, id, name and email of the creator.
    ``twins`` are the lines of records whose content another line of this chunk had first, by that line. ``notes`` are
    what is said of rows that are saved nevertheless. ``line``, ``runaways`` and ``replaced`` are the reader's after the
    last of them.
    """

    tally: Tally = field(default_factory=Tally)
    rows: dict[str, str] = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)
    notes: dict[str, Skipped] = field(default_factory=dict)
    records: int = 0
    characters: int = 0
    line: int = 0
    runaways: int = 0
    replaced: int = 0
    copied: bytes = b""

    def note(self, what: str, line: int) -> None:
        """Say something of one row."""
        self.notes.setdefault(what, Skipped()).add(line)

    def close(self) -> None:
        """Make the bytes that COPY takes, in the order of contents."""
        rows = self.rows
        self.copied = "".join([rows[content] for content in sorted(rows)]).encode()


class Ids:
    """The ids of one run's records: they ascend with the lines, so that their order is that of the file."""

    def __init__(self, first: UUID) -> None:
        # Half of what counts lines begins anywhere; the other half has room for every line there can be.
        self.low: int = first.int % 2 ** (_LINE_BITS - 1)
        self.prefix = f"{first.int >> _LINE_BITS:020x}"

    def line(self, id_: UUID) -> int:
        """Return the line whose record has this id."""
        return int(id_.hex[len(self.prefix) :], 16) - self.low


class Maker:
    """Fills chunks from records, one pass over each."""

    def __init__(self, columns: tuple[str, ...], places: Places, *, type_: str, ids: Ids) -> None:
        self._type = type_
        self._prefix, self._low = ids.prefix, ids.low
        self._columns = columns
        self._width = len(columns)
        nowhere = len(columns)  # where a row that was made even has an empty cell
        at = {field: places.at.get(field, nowhere) for field in FIELDS}
        one = at["creator"]
        creator = [one if at[field] == nowhere else at[field] for field in ("creator_id", "creator_name")]
        picked = (at["content"], at["type"], at["category"], *creator, at["creator_email"])
        self._pick = itemgetter(*picked)
        self._picked_names = [columns[place] if place < nowhere else "" for place in picked]
        self._content_of = places.template
        self._may_skip_by_category = "category" not in places.found
        pairs = ", ".join(f"{as_json(name)}: ".replace("%", "%%") + "%s" for name in columns)
        self._template = "{" + pairs + "}"

    def fill(self, chunk: Chunk, reader: Reader, records: Iterator[AnyRecord]) -> bool:
        """Take records until the chunk is full, and tell so, or until there are no more."""
        for cells in records:
            chunk.records += 1
            if isinstance(cells, Damage):
                chunk.tally.skip(cells, reader.start)
            else:
                self._take(chunk, cells, reader.start)
            full = chunk.records >= CHUNK_RECORDS or chunk.characters >= CHUNK_CHARACTERS
            if full and not reader.giving_up:
                return True
        return False

    def _take(self, chunk: Chunk, cells: list[str] | Object, line: int) -> None:
        """Put one record into the chunk, or count why not."""
        rows = chunk.rows
        extra = 0
        if isinstance(cells, dict):
            found: Sequence[str] = self._looked_up(cells)
        elif (extra := len(cells) - self._width) == 0 and self._content_of is None:
            found = self._pick([*cells, ""])
        else:
            found = self._picked(cells)
        content, type_, category_, id_, name, email = found
        if reason := self._reason(content, type_, category_, extra):
            chunk.tally.skip(reason, line)
        elif content in rows:
            chunk.twins[line] = int(rows[content][len(self._prefix) : ID_DIGITS], 16) - self._low
        else:
            if category_ and category(category_[:_SHORT]) is None:
                chunk.note(Note.CATEGORY_LEFT_EMPTY, line)
                category_ = ""
            if extra > 0 and isinstance(cells, list) and not is_blank("".join(cells[self._width :])):
                chunk.note(Note.ROWS_CUT, line)
            if extra or isinstance(cells, dict):
                metadata = self._metadata(cells)
            else:
                metadata = self._template % tuple(map(as_json, cells))
            end = _end(category_[:_SHORT], id_[:NAME_LIMIT], name[:NAME_LIMIT], email[:NAME_LIMIT])
            begin = f"{self._prefix}{self._low + line:012x}\t{_escaped(content)}"
            rows[content] = row = f"{begin}\t{metadata.replace(_ESCAPE, _ESCAPED)}{end}"
            chunk.characters += len(row)

    def _metadata(self, cells: list[str] | Object) -> str:
        """Return all that an object or an uneven row has, as JSON."""
        return dumps(cells, ensure_ascii=False) if isinstance(cells, dict) else self._ragged(cells)

    def _picked(self, cells: list[str]) -> Sequence[str]:
        """Return what a row has for each field."""
        even = [*cells, ""] if len(cells) == self._width else self._even(cells)
        found: Sequence[str] = self._pick(even)
        if self._content_of:
            return [self._content_of.filled([even[place] for place in self._content_of.places]), *found[1:]]
        return found

    def _looked_up(self, record: Object) -> list[str]:
        """Return what an object has for each field, as a row of cells would have it."""
        found = [text_of(record, name) if name else "" for name in self._picked_names]
        if self._content_of:
            found[0] = self._content_of.filled([text_of(record, name) for name in self._content_of.names])
        return found

    def _reason(self, content: str, type_: str, category_: str, extra: int) -> str | None:
        """Return why this record is skipped whatever the project holds, or None."""
        if type_ and is_other_type(type_[:_SHORT], self._type):
            return Reason.OTHER_TYPE
        # Most texts begin with a letter, and need no closer look.
        if not "0" <= content[:1] <= "z" and is_blank(content):
            return Reason.EMPTY_CONTENT
        if len(content) > CONTENT_LIMIT:
            return Reason.TOO_LONG
        if extra > MOST_EXTRA_CELLS:
            return Reason.MALFORMED
        if category_ and self._may_skip_by_category and category(category_[:_SHORT]) is None:
            return Reason.INVALID_CATEGORY
        return None

    def _even(self, cells: list[str]) -> list[str]:
        """Return a row with a cell for each column, and an empty one behind them."""
        width = len(self._columns)
        return cells[:width] + [""] * (width + 1 - min(width, len(cells)))

    def _ragged(self, cells: list[str]) -> str:
        """Return the metadata of a row that has not one cell per column: what is missing is absent."""
        names = self._columns[: len(cells)]
        if len(cells) > len(self._columns):
            names = self._columns + extra_names(self._columns, len(cells) - len(self._columns))
        pairs = zip(names, cells, strict=True)
        return "{" + ", ".join([f"{as_json(name)}: {as_json(cell)}" for name, cell in pairs]) + "}"


@lru_cache(maxsize=1_000)  # of short texts only: few categories, and the same creators again and again
def _end(category_: str, id_: str, name: str, email: str) -> str:
    """Return what stands behind the metadata in a line of COPY."""
    cells = (category(category_), *(_escaped(cell.strip()) for cell in (id_, name, email)))
    return "".join([f"\t{cell or _NULL}" for cell in cells]) + "\n"


def _escaped(cell: str) -> str:
    """Return ``cell`` as the text format of COPY wants it."""
    escaped = cell.replace(_ESCAPE, _ESCAPED)
    return escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
