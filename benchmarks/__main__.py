"""``python -m benchmarks``: measure Gristmill and other systems, interleaved in one run.

``python -m benchmarks report FILE`` prints a saved run as Markdown, ``plot FILE`` draws it.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.facts import environment
from benchmarks.figures import Results, read
from benchmarks.parts import (
    Bench,
    Part,
    backlog,
    calls,
    controlled_calls,
    drain,
    embed,
    enqueue,
    gateway,
    ingest,
    latency,
    lists,
    memory,
    upkeep,
    watched,
)
from benchmarks.peers.measure import PEERS
from benchmarks.sizes import HUGE, HUGE_FILE, QUICK, WHOLE, Sizes
from benchmarks.system import system

PARTS: dict[str, Part] = {
    "enqueue": enqueue.run,
    "drain": drain.run,
    "latency": latency.run,
    "calls": calls.run,
    "controlled_calls": controlled_calls.run,
    "backlog": backlog.run,
    "lists": lists.run,
    "prune": upkeep.run,
    "memory": memory.run,
    "watched": watched.run,
    "ingest": ingest.run,
    "embed": embed.run,
    "gateway": gateway.run,
}
PICTURES = Path("docs/figures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report or plot; return 0 unless a part failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    match given:
        case ["report" | "plot", file, *_] if not Path(file).is_file():
            print(f"no run is saved in {file!r}; make one with --json FILE", file=sys.stderr)
            return 1
        case ["report", file]:
            print(report.markdown(read(Path(file))))
            return 0
        case ["plot", file, *rest]:
            return _plot(Path(file), Path(rest[0]) if rest else PICTURES)
    # If a run is stopped by a signal, it must stop the servers and roles that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return _run(_options(given))


def _plot(file: Path, into: Path) -> int:
    if find_spec("matplotlib") is None:
        print("plot needs matplotlib: install the project's dependency group bench", file=sys.stderr)
        return 1
    from benchmarks.plot import draw

    for picture in draw(read(file), into):
        print(picture)
    return 0


def _options(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Gristmill and other systems that do the same work; or: report FILE, plot FILE [FOLDER].",
    )
    parser.add_argument("--only", type=_Names(PARTS), default=list(PARTS), help=f"parts of: {', '.join(PARTS)}")
    parser.add_argument("--peers", type=_Names(PEERS), default=[], help=f"peers of: {', '.join(PEERS)}")
    parser.add_argument("--quick", action="store_true", help="a small run, within three minutes without peers")
    parser.add_argument("--huge", action="store_true", help="also 10 million waiting jobs and a file of 1 GB")
    parser.add_argument("--repeat", type=int, help="interleaved rounds")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply every count by this, for a trial run")
    kept = Path(f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.json")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=kept, help="save the run here after every part [bench-…]"
    )
    return parser.parse_args(given)


class _Names:
    """Parses names separated by commas; each name must be known."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = list(known)

    def __call__(self, value: str) -> list[str]:
        names = [name for name in value.split(",") if name]
        if unknown := [name for name in names if name not in self._known]:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(self._known)}, got {', '.join(unknown)}")
        return names


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Return the sizes of the run."""
    sizes = QUICK if options.quick else WHOLE
    if options.huge:
        sizes = replace(sizes, depths=(*sizes.depths, HUGE), ingest_bytes=HUGE_FILE)
    if options.scale != 1.0:
        sizes = sizes.scaled(options.scale)
    return replace(sizes, repeat=options.repeat) if options.repeat else sizes


def _run(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    sizes = sizes_of(options)
    start = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[{time.monotonic() - start:4.0f} s] {line}", markup=False, style="dim")

    with system() as servers:
        chosen = {"parts": options.only, "peers": options.peers, "quick": options.quick, **asdict(sizes)}
        results = Results(environment(servers), chosen)
        bench = Bench(servers, sizes, say, [PEERS[name] for name in options.peers], results.failures)
        for name in options.only:
            results.loads[name] = round(os.getloadavg()[0], 2)
            say(f"part {name}")
            try:
                results.figures += PARTS[name](bench)
            except Exception as error:  # noqa: BLE001 - the other parts still run
                results.failures[name] = f"{type(error).__name__}: {error}"
                say(f"{name} failed: {results.failures[name]}")
            results.write(options.json)
    report.show(results, console)
    say(f"kept in {options.json}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
