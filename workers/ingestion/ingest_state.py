"""The values that a job's row gets at each commit: counts, warnings, and where the next run continues."""

from collections.abc import Mapping
from typing import Any

from models.operations import IngestJob
from workers.ingestion.chunks import Chunk
from workers.ingestion.data_file import DataFile
from workers.ingestion.encodings import FALLBACK, LENIENT_UTF8, UTF8
from workers.ingestion.kinds import FileKind
from workers.ingestion.record_counts import (
    AT_END,
    CountedLines,
    RecordCounts,
    RowNote,
    counts_from_row,
    lines_from_row,
    merge_counts,
)
from workers.ingestion.refusals import quote_names


class IngestState:
    """The values of the job's row as of the last committed chunk; it starts with the values that the row has."""

    def __init__(self, job: IngestJob, file: DataFile) -> None:
        self.resume_at: Mapping[str, Any] = job.resume_at or {}
        self._counts = counts_from_row(job.saved_count, job.skipped_details)
        before = job.warnings or {}
        self._notes = lines_from_row({note: before[note] for note in RowNote if note in before})
        self._warnings = warnings_of(file)
        self._replaced_before = before.get("replaced_characters", 0)

    def with_chunk(self, chunk: Chunk, counts: RecordCounts) -> dict[str, Any]:
        """Return the row's values after ``chunk``; ``counts`` are those of its records."""
        total = self._counts.plus(counts)
        notes = self._notes_with(chunk)
        warnings = self._warnings | {note: one.details() for note, one in notes.items()}
        if replaced := self._replaced_before + chunk.replaced:
            warnings["replaced_characters"] = replaced
        return {
            "total_records": total.total,
            "saved_count": total.saved,
            "skipped_count": total.skipped_count,
            "skipped_details": total.details(),
            "warnings": warnings or None,
            "resume_at": {"line": chunk.line, "runaways": chunk.runaways},
        }

    def record_commit(self, values: Mapping[str, Any], chunk: Chunk) -> None:
        """Remember ``values``, which the row has now."""
        self.resume_at = values["resume_at"]
        self._counts = counts_from_row(values["saved_count"], values["skipped_details"])
        self._notes = self._notes_with(chunk)

    def _notes_with(self, chunk: Chunk) -> dict[str, CountedLines]:
        """Return all notes. A note about the end of the file counts once, even if two runs have reached the end."""
        at_end = {note: self._notes[note] for note in AT_END if note in self._notes}
        return merge_counts(self._notes, chunk.notes) | at_end


def warnings_of(file: DataFile) -> dict[str, Any]:
    """Return the warnings about a file as a whole: all that was detected and not given by a person."""
    warnings: dict[str, Any] = {}
    if file.places.found:
        warnings["columns_found"] = dict(file.places.found)
    if file.places.passed_over:
        columns = "; ".join(f"{field}: {why}" for field, why in file.places.passed_over.items())
        warnings["columns_passed_over"] = f"{columns} (kept in metadata)"
    if file.encoding == FALLBACK and not file.encoding_was_given:
        warnings["encoding"] = f"not UTF-8, and no byte order mark, so read as {FALLBACK}; --encoding sets another"
    if (read_as := read_as_of(file)) and not _is_usual(file, read_as):
        warnings["read_as"] = read_as
    if formulas := file.table.unsaved_formulas:
        warnings["formulas_without_values"] = (
            f"{formulas:,} cells have a formula but no stored value, so they are empty: "
            "open the file in a spreadsheet program and save it again"
        )
    if file.table.other_sheets:
        warnings["sheets_not_read"] = quote_names(list(file.table.other_sheets))
    return warnings


def read_as_of(file: DataFile) -> dict[str, Any]:
    """Return how the file is read."""
    read_as = file.table.read_as()
    if file.table.kind is not FileKind.XLSX:
        read_as["encoding"] = UTF8 if file.encoding == LENIENT_UTF8 else file.encoding
    return read_as | ({"packed": "gzip"} if file.is_gzipped else {})


def _is_usual(file: DataFile, read_as: Mapping[str, Any]) -> bool:
    """Return whether the file is read as most files are, so that nothing need be shown."""
    if file.table.kind is not FileKind.CSV or file.has_options:
        return False
    return bool(read_as["delimiter"] == "," and not {"packed", "escape"} & read_as.keys())
