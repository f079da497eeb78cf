"""Make chunks of records for COPY, without a database. This is the hot loop of ingestion.

A chunk holds each content once, sorted by content. So two jobs that insert the same contents lock them in the same
order, and cannot deadlock.
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
from workers.ingestion.layout import MAX_EXTRA_CELLS, extra_names
from workers.ingestion.mapping import FIELDS, MAX_NAME_CHARS, Places, category, is_other_type
from workers.ingestion.objects import JsonObject, field_text
from workers.ingestion.record_counts import CountedLines, RecordCounts, RowNote, SkipReason
from workers.ingestion.tables import AnyRecord, Reader

CHUNK_RECORDS = 10_000
CHUNK_CHARACTERS = 8 * 1024 * 1024
MAX_CONTENT_CHARS = 1_000_000
MAX_CREATOR_CHARS = 255
_NULL = "\\N"
_ESCAPE, _ESCAPED = "\\", "\\\\"
# Hexadecimal digits of an id. The last 12 are the line number plus an offset.
ID_DIGITS = 32
_LINE_BITS = 48
# Longer than the name of any category or type. Longer cells are cut to this before they are compared.
_MAX_COMPARED_CHARS = MAX_NAME_CHARS + 1


@dataclass(slots=True)
class Chunk:
    """Records that are saved together, and the counts of those that were skipped.

    ``rows`` maps each content to its line of COPY: id, content, metadata, category, and the creator's id, name, email.
    ``twins`` maps the line of a repeated content to the line that had it first in this chunk. ``notes`` are warnings
    about rows that are saved. ``line``, ``runaways`` and ``replaced`` are the reader's values after the last record.
    """

    counts: RecordCounts = field(default_factory=RecordCounts)
    rows: dict[str, str] = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)
    notes: dict[str, CountedLines] = field(default_factory=dict)
    records: int = 0
    characters: int = 0
    line: int = 0
    runaways: int = 0
    replaced: int = 0
    copied: bytes = b""

    def note(self, note: str, line: int) -> None:
        """Count one row for this note."""
        self.notes.setdefault(note, CountedLines()).add(line)

    def close(self) -> None:
        """Make the bytes for COPY, sorted by content."""
        rows = self.rows
        self.copied = "".join([rows[content] for content in sorted(rows)]).encode()


class RecordIds:
    """The ids of the records of one run. They ascend with the lines, so sorting by id gives the order of the file."""

    def __init__(self, first: UUID) -> None:
        # The offset takes the lower half of the range; the upper half has room for every line number.
        self.low: int = first.int % 2 ** (_LINE_BITS - 1)
        self.prefix = f"{first.int >> _LINE_BITS:020x}"

    def line(self, id_: UUID) -> int:
        """Return the line of the record with this id."""
        return int(id_.hex[len(self.prefix) :], 16) - self.low


class ChunkBuilder:
    """Fills chunks with records, one pass over each record."""

    def __init__(self, columns: tuple[str, ...], places: Places, *, type_: str, ids: RecordIds) -> None:
        self._type = type_
        self._prefix, self._low = ids.prefix, ids.low
        self._columns = columns
        self._width = len(columns)
        nowhere = len(columns)  # the index of the empty cell that is appended to each row
        at = {field: places.at.get(field, nowhere) for field in FIELDS}
        one = at["creator"]
        creator = [one if at[field] == nowhere else at[field] for field in ("creator_id", "creator_name")]
        wanted = (at["content"], at["type"], at["category"], *creator, at["creator_email"])
        self._pick = itemgetter(*wanted)
        self._wanted_names = [columns[place] if place < nowhere else "" for place in wanted]
        self._content_of = places.template
        self._may_skip_by_category = "category" not in places.found
        pairs = ", ".join(f"{as_json(name)}: ".replace("%", "%%") + "%s" for name in columns)
        self._template = "{" + pairs + "}"

    def fill(self, chunk: Chunk, reader: Reader, records: Iterator[AnyRecord]) -> bool:
        """Add records until the chunk is full (return True) or no record is left (return False)."""
        for cells in records:
            chunk.records += 1
            if isinstance(cells, Damage):
                chunk.counts.skip(cells, reader.start)
            else:
                self._take(chunk, cells, reader.start)
            full = chunk.records >= CHUNK_RECORDS or chunk.characters >= CHUNK_CHARACTERS
            if full and not reader.giving_up:
                return True
        return False

    def _take(self, chunk: Chunk, cells: list[str] | JsonObject, line: int) -> None:
        """Add one record to the chunk, or count the reason why it is skipped."""
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
            chunk.counts.skip(reason, line)
        elif content in rows:
            chunk.twins[line] = int(rows[content][len(self._prefix) : ID_DIGITS], 16) - self._low
        else:
            if category_ and category(category_[:_MAX_COMPARED_CHARS]) is None:
                chunk.note(RowNote.CATEGORY_LEFT_EMPTY, line)
                category_ = ""
            if extra > 0 and isinstance(cells, list) and not is_blank("".join(cells[self._width :])):
                chunk.note(RowNote.ROWS_CUT, line)
            if extra or isinstance(cells, dict):
                metadata = self._metadata(cells)
            else:
                metadata = self._template % tuple(map(as_json, cells))
            end = _end(
                category_[:_MAX_COMPARED_CHARS],
                id_[:MAX_CREATOR_CHARS],
                name[:MAX_CREATOR_CHARS],
                email[:MAX_CREATOR_CHARS],
            )
            begin = f"{self._prefix}{self._low + line:012x}\t{_escaped(content)}"
            rows[content] = row = f"{begin}\t{metadata.replace(_ESCAPE, _ESCAPED)}{end}"
            chunk.characters += len(row)

    def _metadata(self, cells: list[str] | JsonObject) -> str:
        """Return the metadata of an object or of a row with missing or extra cells, as JSON."""
        return dumps(cells, ensure_ascii=False) if isinstance(cells, dict) else self._ragged(cells)

    def _picked(self, cells: list[str]) -> Sequence[str]:
        """Return the row's value of each field."""
        padded = [*cells, ""] if len(cells) == self._width else self._padded(cells)
        found: Sequence[str] = self._pick(padded)
        if self._content_of:
            return [self._content_of.filled([padded[place] for place in self._content_of.places]), *found[1:]]
        return found

    def _looked_up(self, record: JsonObject) -> list[str]:
        """Return the object's value of each field, as text."""
        found = [field_text(record, name) if name else "" for name in self._wanted_names]
        if self._content_of:
            found[0] = self._content_of.filled([field_text(record, name) for name in self._content_of.names])
        return found

    def _reason(self, content: str, type_: str, category_: str, extra: int) -> str | None:
        """Return the reason why this record is skipped, or None. Duplicates are found later."""
        if type_ and is_other_type(type_[:_MAX_COMPARED_CHARS], self._type):
            return SkipReason.OTHER_TYPE
        # A text that begins with a letter or digit is not blank: skip the slower check.
        if not "0" <= content[:1] <= "z" and is_blank(content):
            return SkipReason.EMPTY_CONTENT
        if len(content) > MAX_CONTENT_CHARS:
            return SkipReason.TOO_LONG
        if extra > MAX_EXTRA_CELLS:
            return SkipReason.MALFORMED
        if category_ and self._may_skip_by_category and category(category_[:_MAX_COMPARED_CHARS]) is None:
            return SkipReason.INVALID_CATEGORY
        return None

    def _padded(self, cells: list[str]) -> list[str]:
        """Return a row with one cell per column, and one empty cell after them."""
        width = len(self._columns)
        return cells[:width] + [""] * (width + 1 - min(width, len(cells)))

    def _ragged(self, cells: list[str]) -> str:
        """Return the metadata of a row with missing or extra cells. Missing cells are left out."""
        names = self._columns[: len(cells)]
        if len(cells) > len(self._columns):
            names = self._columns + extra_names(self._columns, len(cells) - len(self._columns))
        pairs = zip(names, cells, strict=True)
        return "{" + ", ".join([f"{as_json(name)}: {as_json(cell)}" for name, cell in pairs]) + "}"


@lru_cache(maxsize=1_000)  # short texts only: few categories, and creators repeat
def _end(category_: str, id_: str, name: str, email: str) -> str:
    """Return the part of a COPY line after the metadata."""
    cells = (category(category_), *(_escaped(cell.strip()) for cell in (id_, name, email)))
    return "".join([f"\t{cell or _NULL}" for cell in cells]) + "\n"


def _escaped(cell: str) -> str:
    """Return ``cell`` escaped for COPY's text format."""
    escaped = cell.replace(_ESCAPE, _ESCAPED)
    return escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
