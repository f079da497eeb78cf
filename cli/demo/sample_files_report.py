"""Print the results for the sample files: saved and skipped rows, verdicts, ratings, similar records."""

import textwrap
from collections.abc import Iterator, Sequence

from cli.demo.report import OFFLINE, OFFLINE_NOTE
from cli.demo.sample_files import FILES, QUESTION, SampleFiles
from cli.offline_notes import OFFLINE_EMBEDDER, OFFLINE_EMBEDDER_NOTE
from cli.output import print_wrapped
from cli.values import format_count
from workers.ingestion.outcomes import IngestionOutcome
from workers.runtime.refusals import printable
from workers.vectorization.similar import Match

_MAX_CONTENT_CHARACTERS = 96
_MAX_LINES = 5


def print_sample_files(seen: SampleFiles) -> None:
    """Print the report."""
    print_wrapped(sample_lines(seen))


def sample_lines(seen: SampleFiles) -> Iterator[str]:
    """Yield the report, line by line."""
    for (file, _), job in zip(FILES, seen.jobs, strict=True):
        yield from _file(file, job)
    for type_, verdicts in sorted(seen.verdicts.items(), reverse=True):
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(verdicts.items()))
        yield f"{type_.lower()} against guidelines.pdf: {counts}"
        if type_ in seen.ratings:
            mean = seen.ratings[type_]
            by = f"{mean.model} ({OFFLINE_NOTE})" if mean.model == OFFLINE else mean.model
            yield f"  rated 1 to 7 by {by}: realism {mean.realism:.1f}, quality {mean.quality:.1f} on average"
    yield f'most like "{QUESTION}"{_embedder_note(seen.matches)}:'
    for match in seen.matches:
        found = textwrap.shorten(printable(match.record.content), _MAX_CONTENT_CHARACTERS, placeholder="…")
        yield f"  {match.similarity:.2f}  {found}"
    if seen.analysis.error:
        yield f"analysis failed: {seen.analysis.error}"


def _embedder_note(matches: Sequence[Match]) -> str:
    """Return the note for matches of the offline embedder; nothing for other matches."""
    return (
        f" ({OFFLINE_EMBEDDER_NOTE})"
        if any(match.record.embedding_model == OFFLINE_EMBEDDER for match in matches)
        else ""
    )


def _file(name: str, job: IngestionOutcome) -> Iterator[str]:
    rows = format_count(job.total_records, "row")
    counts = f"{rows}, {job.saved_count} saved and embedded, {job.skipped_count} skipped"
    yield f"{name}: {job.error_message or counts}"
    for reason, skipped in sorted((job.skipped_details or {}).items()):
        first = ", ".join(map(str, skipped["lines"][:_MAX_LINES]))
        more = ", …" if skipped["count"] > _MAX_LINES else ""
        yield f"  {reason}: {skipped['count']} (line {first}{more})"
