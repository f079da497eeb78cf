"""What a job's row says of its file at each commit: the counts, the warnings, and where the next run goes on."""

from collections.abc import Mapping
from typing import Any

from models.operations import IngestJob
from workers.ingestion.chunks import Chunk
from workers.ingestion.data_file import DataFile
from workers.ingestion.encodings import DOUBTFUL, GUESS, UTF8
from workers.ingestion.kinds import Kind
from workers.ingestion.refusals import listed
from workers.ingestion.tally import AT_END, Note, Skipped, Tally, skipped_of, tally_of, together


class Account:
    """Begins with what the job's row has, and goes on with each chunk that was committed."""

    def __init__(self, job: IngestJob, file: DataFile) -> None:
        self.resume_at: Mapping[str, Any] = job.resume_at or {}
        self._tally = tally_of(job.saved_count, job.skipped_details)
        before = job.warnings or {}
        self._notes = skipped_of({note: before[note] for note in Note if note in before})
        self._warnings = warnings_of(file)
        self._replaced_before = before.get("replaced_characters", 0)

    def with_chunk(self, chunk: Chunk, tally: Tally) -> dict[str, Any]:
        """Return the row's values once ``chunk`` is there too, of whose records became ``tally``."""
        total = self._tally.plus(tally)
        notes = self._with(chunk)
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

    def committed(self, values: Mapping[str, Any], chunk: Chunk) -> None:
        """Go on from ``values``, which the row has now."""
        self.resume_at = values["resume_at"]
        self._tally = tally_of(values["saved_count"], values["skipped_details"])
        self._notes = self._with(chunk)

    def _with(self, chunk: Chunk) -> dict[str, Skipped]:
        """Return all notes; what the end of a file tells is told once, though two runs may have reached it."""
        return together(self._notes, chunk.notes) | {note: self._notes[note] for note in AT_END if note in self._notes}


def warnings_of(file: DataFile) -> dict[str, Any]:
    """Return what is said of a file as a whole: what was found out and not told by the person."""
    said: dict[str, Any] = {}
    if file.places.found:
        said["columns_found"] = dict(file.places.found)
    if file.places.passed_over:
        columns = "; ".join(f"{field}: {why}" for field, why in file.places.passed_over.items())
        said["columns_passed_over"] = f"{columns} (kept in metadata)"
    if file.encoding == GUESS and not file.encoding_was_given:
        said["encoding"] = f"neither UTF-8 nor marked as anything else, so read as {GUESS}; --encoding names another"
    if (read_as := read_as_of(file)) and not _is_usual(file, read_as):
        said["read_as"] = read_as
    if formulas := file.table.unsaved_formulas:
        said["formulas_without_values"] = (
            f"{formulas:,} cells hold a formula of which the file has no value, so they are empty: "
            "open it in a spreadsheet program and save it again"
        )
    if file.table.other_sheets:
        said["sheets_not_read"] = listed(list(file.table.other_sheets))
    return said


def read_as_of(file: DataFile) -> dict[str, Any]:
    """Return how the file is read."""
    said = file.table.read_as()
    if file.table.kind is not Kind.XLSX:
        said["encoding"] = UTF8 if file.encoding == DOUBTFUL else file.encoding
    return said | ({"packed": "gzip"} if file.is_gzipped else {})


def _is_usual(file: DataFile, read_as: Mapping[str, Any]) -> bool:
    """Tell whether nobody would ask."""
    is_plain = file.table.kind is Kind.CSV and read_as["delimiter"] == "," and not {"packed", "escape"} & read_as.keys()
    return is_plain and not file.was_told_how
