"""Tell of a change to many jobs while it goes on: counts, ids where wanted, what could not be changed and why."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Self
from uuid import UUID

from cli.output import remark
from workers.runtime.operate.changes import ChangeCounts

_QUIET_SECONDS = 2.0
_REASONS_SHOWN = 5


class Report:
    """Prints a change page by page. Ids go to standard output at once, or through files into one JSON document:

    however many they are, none stays in memory. Progress goes to standard error, once a change takes long.
    """

    def __init__(self, done: str, *, dry_run: bool, ids: bool, as_json: bool) -> None:
        self._done = done
        self._dry_run = dry_run
        self._ids = ids
        self._kept: tuple[IO[str], IO[str]] | None = (_file(), _file()) if as_json else None
        self._told_at = time.monotonic()
        self._counts = [0, 0]
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._kept or ():
            file.close()

    def page(self, ids: Sequence[UUID], refused: Mapping[UUID, str]) -> None:
        """Take one page. Progress is told before the next one: the last page is followed by the sum."""
        if any(self._counts):
            self._progress()
        if self._kept:
            done, others = self._kept
            done.writelines(f"{job_id}\n" for job_id in ids)
            others.writelines(json.dumps([str(job_id), why]) + "\n" for job_id, why in refused.items())
        elif self._ids:
            for job_id in ids:
                print(job_id)
        self._counts = [self._counts[0] + len(ids), self._counts[1] + len(refused)]

    def _progress(self) -> None:
        terminal = sys.stderr.isatty()
        if time.monotonic() - self._told_at < (_QUIET_SECONDS / 10 if terminal else _QUIET_SECONDS):
            return
        self._told_at = time.monotonic()
        line = f"{self._verb(self._counts[0])}, {self._counts[1]:,} cannot be so far"
        if terminal:
            self._shown = True
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        else:
            remark(line)

    def end(self, changed: ChangeCounts, *, interrupted: bool = False, reasons: bool = True) -> None:
        """Print the sum and, with ``reasons``, why some could not be."""
        if self._shown:
            print(file=sys.stderr)
        if self._kept:
            self._print_json(interrupted=interrupted)
            return
        before = "interrupted: " if interrupted else ""
        after = " so far" if interrupted else ""
        others = f", {changed.refused.total():,} cannot be" if changed.refused else ""
        print(f"{before}{self._verb(changed.done)}{others}{after}")
        if not reasons:
            return
        told = changed.refused.most_common(_REASONS_SHOWN)
        for why, count in told:
            sample = changed.samples[why]
            remark(f"  {sample} {why}" if count == 1 else f"  {count:,} jobs, such as {sample}: {why}")
        if rest := len(changed.refused) - len(told):
            remark(f"  and {rest:,} other reasons; --json shows them")

    def _verb(self, count: int) -> str:
        return f"{count:,} would be {self._done}" if self._dry_run else f"{count:,} {self._done}"

    def _print_json(self, *, interrupted: bool) -> None:
        """Write the document as it comes from the files."""
        done, others = self._kept or (_file(), _file())
        more = ', "interrupted": true' if interrupted else ""
        print(f'{{"dry_run": {json.dumps(self._dry_run)}{more}, "{self._done}": [', end="")
        for number, line in enumerate(_lines(done)):
            print(f'{", " if number else ""}"{line}"', end="")
        print('], "refused": {', end="")
        for number, line in enumerate(_lines(others)):
            job_id, why = json.loads(line)
            print(f'{", " if number else ""}"{job_id}": {json.dumps(why, ensure_ascii=False)}', end="")
        print("}}")


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _lines(file: IO[str]) -> "list[str] | map[str]":
    file.seek(0)
    return map(str.rstrip, file)
