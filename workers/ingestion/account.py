"""What a job's row says of its file at each commit: the counts, the warnings, and where the next run goes on."""

from collections.abc import Mapping
from typing import Any

from models.operations import IngestJob
from workers.ingestion.chunks import Chunk
from workers.ingestion.encodings import GUESS
from workers.ingestion.mapping import Field
from workers.ingestion.tally import Tally, tally_of


class Account:
    """Begins with what the job's row has, and goes on with each chunk that was committed."""

    def __init__(self, job: IngestJob, *, found: Mapping[Field, str], encoding: str) -> None:
        self.resume_at: Mapping[str, Any] = job.resume_at or {}
        self._tally = tally_of(job.saved_count, job.skipped_details)
        self._warnings: dict[str, Any] = {}
        if found:
            self._warnings["columns_found"] = dict(found)
        if encoding == GUESS:
            self._warnings["encoding"] = f"neither UTF-8 nor marked as anything else, so read as {GUESS}"
        self._replaced_before = (job.warnings or {}).get("replaced_characters", 0)

    def with_chunk(self, chunk: Chunk, tally: Tally) -> dict[str, Any]:
        """Return the row's values once ``chunk`` is there too, of whose records became ``tally``."""
        total = self._tally.plus(tally)
        warnings = dict(self._warnings)
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

    def committed(self, values: Mapping[str, Any]) -> None:
        """Go on from ``values``, which the row has now."""
        self.resume_at = values["resume_at"]
        self._tally = tally_of(values["saved_count"], values["skipped_details"])
