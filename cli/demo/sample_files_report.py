"""What the demonstration says of the sample files: what was saved, why the rest was not, verdicts, ratings, finds."""

import textwrap
from collections.abc import Iterator, Sequence

from cli.demo.report import OFFLINE, OFFLINE_NOTE
from cli.demo.sample_files import FILES, QUESTION, SampleFiles
from cli.output import console
from cli.words import OFFLINE_EMBEDDER, WORDS
from workers.ingestion.outcomes import IngestionOutcome
from workers.runtime.refusals import printable
from workers.vectorization.similar import Match

_CHARACTERS = 96
_LINES_SHOWN = 5


def print_sample_files(seen: SampleFiles) -> None:
    """Print it."""
    shown = console()
    for line in lines(seen):
        shown.print(line, markup=False)


def lines(seen: SampleFiles) -> Iterator[str]:
    """Yield the report, line by line."""
    for (file, _), job in zip(FILES, seen.jobs, strict=True):
        yield from _file(file, job)
    for type_, verdicts in sorted(seen.verdicts.items(), reverse=True):
        told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(verdicts.items()))
        yield f"{type_.lower()} against guidelines.pdf: {told}"
        if type_ in seen.ratings:
            mean = seen.ratings[type_]
            by = f"{mean.model} ({OFFLINE_NOTE})" if mean.model == OFFLINE else mean.model
            yield f"  rated 1 to 7 by {by}: realism {mean.realism:.1f}, quality {mean.quality:.1f} on average"
    yield f'most like "{QUESTION}"{by_words(seen.matches)}:'
    for match in seen.matches:
        found = textwrap.shorten(printable(match.record.content), _CHARACTERS, placeholder="…")
        yield f"  {match.similarity:.2f}  {found}"
    if seen.analysis.error:
        yield f"analysis failed: {seen.analysis.error}"


def by_words(matches: Sequence[Match]) -> str:
    """Return what must be said beside matches that the offline embedder made."""
    return f" ({WORDS})" if any(match.record.embedding_model == OFFLINE_EMBEDDER for match in matches) else ""


def _file(name: str, job: IngestionOutcome) -> Iterator[str]:
    yield (
        f"{name}: {job.total_records} rows, {job.saved_count} saved and embedded, {job.skipped_count} skipped"
        if job.error_message is None
        else f"{name}: {job.error_message}"
    )
    for reason, told in sorted((job.skipped_details or {}).items()):
        first = ", ".join(map(str, told["lines"][:_LINES_SHOWN]))
        more = ", …" if told["count"] > _LINES_SHOWN else ""
        yield f"  {reason}: {told['count']} (line {first}{more})"
