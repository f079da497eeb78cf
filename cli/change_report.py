"""Print a change of many jobs while it runs: the counts, the ids on request, and why some jobs were not changed."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Self
from uuid import UUID

from cli.output import remark
from workers.runtime.operate.changes import ChangeCounts

_PROGRESS_SECONDS = 2.0
_TERMINAL_PROGRESS_SECONDS = 0.2
_MAX_REASONS = 5


class ChangeReport:
    """Prints a change page by page. No id stays in memory, however many there are.

    Ids are printed at once. For JSON they go through temporary files into one document. If a change takes long, its
    progress goes to standard error.
    """

    def __init__(self, verb: str, *, dry_run: bool, ids: bool, as_json: bool) -> None:
        """Take the verb of the change as a participle: ``cancelled``. ``ids``: print the id of each changed job."""
        self._verb = verb
        self._dry_run = dry_run
        self._ids = ids
        self._json_files: tuple[IO[str], IO[str]] | None = (_open_file(), _open_file()) if as_json else None
        self._printed_at = time.monotonic()
        self._changed_count = 0
        self._refused_count = 0
        self._is_line_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._json_files or ():
            file.close()

    def add_page(self, ids: Sequence[UUID], refused: Mapping[UUID, str]) -> None:
        """Add one page. Progress is printed before the next page, because the summary follows the last one."""
        if self._changed_count or self._refused_count:
            self._print_progress()
        if self._json_files:
            changed_file, refused_file = self._json_files
            changed_file.writelines(f"{job_id}\n" for job_id in ids)
            refused_file.writelines(json.dumps([str(job_id), why]) + "\n" for job_id, why in refused.items())
        elif self._ids:
            for job_id in ids:
                print(job_id)
        self._changed_count += len(ids)
        self._refused_count += len(refused)

    def _print_progress(self) -> None:
        is_terminal = sys.stderr.isatty()
        pause = _TERMINAL_PROGRESS_SECONDS if is_terminal else _PROGRESS_SECONDS
        if time.monotonic() - self._printed_at < pause:
            return
        self._printed_at = time.monotonic()
        line = f"{self._describe_count(self._changed_count)}, {self._refused_count:,} refused so far"
        if is_terminal:
            self._is_line_open = True
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        else:
            remark(line)

    def print_summary(self, changed: ChangeCounts, *, interrupted: bool = False, reasons: bool = True) -> None:
        """Print the counts and, with ``reasons``, why some jobs were refused."""
        if self._is_line_open:
            print(file=sys.stderr)
        if self._json_files:
            self._print_json(interrupted=interrupted)
            return
        before = "interrupted: " if interrupted else ""
        after = " so far" if interrupted else ""
        others = f", {changed.refused.total():,} refused" if changed.refused else ""
        print(f"{before}{self._describe_count(changed.done)}{others}{after}")
        if not reasons:
            return
        most_frequent = changed.refused.most_common(_MAX_REASONS)
        for why, count in most_frequent:
            example = changed.samples[why]
            remark(f"  {example} {why}" if count == 1 else f"  {count:,} jobs, for example {example}: {why}")
        if rest := len(changed.refused) - len(most_frequent):
            remark(f"  and {rest:,} other reasons; --json shows them")

    def _describe_count(self, count: int) -> str:
        return f"{count:,} would be {self._verb}" if self._dry_run else f"{count:,} {self._verb}"

    def _print_json(self, *, interrupted: bool) -> None:
        """Print the document while reading the files."""
        changed_file, refused_file = self._json_files or (_open_file(), _open_file())
        more = ', "interrupted": true' if interrupted else ""
        print(f'{{"dry_run": {json.dumps(self._dry_run)}{more}, "{self._verb}": [', end="")
        for number, line in enumerate(_read_lines(changed_file)):
            print(f'{", " if number else ""}"{line}"', end="")
        print('], "refused": {', end="")
        for number, line in enumerate(_read_lines(refused_file)):
            job_id, why = json.loads(line)
            print(f'{", " if number else ""}"{job_id}": {json.dumps(why, ensure_ascii=False)}', end="")
        print("}}")


def _open_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _read_lines(file: IO[str]) -> Iterator[str]:
    file.seek(0)
    return map(str.rstrip, file)
