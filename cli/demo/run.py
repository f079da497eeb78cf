"""Run the demonstration: use the system that runs here or start one, score, take files through, report, stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli.connection import opened
from cli.data_dir import LOGS, last_line, make_data_dir, open_log
from cli.demo.display import progress
from cli.demo.packages import installed
from cli.demo.profile_file import read
from cli.demo.profiles import NewProfile
from cli.demo.records import Records, available, remove, take_through
from cli.demo.records_report import print_records
from cli.demo.report import Round, print_report
from cli.demo.scoring import enqueue_round, follow_round, outcome, put_profiles
from cli.errors import CommandError
from cli.processes import spawn
from cli.provider import provider
from cli.supervision_status import read_status, stop_supervisor
from cli.system import COMMAND, await_running, flower_port_for, start_detached
from workers.scoring.rubric import DEFAULT_CRITERIA, PACKAGE_PROMPT, render

if TYPE_CHECKING:
    from config.settings import Settings

WORKERS = 2
HOPELESS_RESTARTS = 3
# Of the built-in criteria those that fit any profile: relevance needs a task that only its owner could name.
PROFILE_PROMPT = render(
    [criterion for criterion in DEFAULT_CRITERIA if criterion.name != "relevance"],
    task="Judge how well this profile tells what or who it describes, for whom, and on what evidence.",
)


def run(settings: "Settings", file: Path | None, *, keep: bool) -> int:
    """Score the profiles of ``file``, or the installed packages and then take the sample files through.

    Return 0 if every job completed. A system that already runs here is used and left alone; one that was started is
    stopped unless ``keep``.
    """
    profiles = read(file) if file else installed()
    what = f"{len(profiles)} profiles of {file}" if file else f"{len(profiles)} Python packages installed here"
    print(f"Scoring {what}, twice.", flush=True)
    with _system(settings, keep=keep) as urls:
        print(f"Watch the jobs in Flower meanwhile: {urls['flower_url']}/tasks", flush=True)
        prompt = PROFILE_PROMPT if file else PACKAGE_PROMPT
        check = partial(_check_roles, settings.data_dir)
        first, again = asyncio.run(_score(urls["database_url"], profiles, prompt, check=check))
        print_report(first, again)
        records = None if file else _take_files_through(settings, urls["database_url"], check=check, keep=keep)
    if read_status(settings.data_dir):
        print(
            f"Still running: Flower {urls['flower_url']}/tasks, `gristmill jobs list`; stop it with `gristmill down`."
        )
    else:
        print("Everything is stopped. `gristmill up` starts it again, `gristmill demo --keep` leaves it running.")
    return 1 if first.failed or again.failed or (records and records.failed) else 0


def _take_files_through(
    settings: "Settings", database_url: str, *, check: Callable[[], None], keep: bool
) -> Records | None:
    if not available():
        print("\nThe sample files did not come along with this installation: a clone of the repository has them.")
        return None
    print("\nIngesting samples/tasks.csv and samples/feedback.csv, with the mess of real exports in them.", flush=True)

    async def take() -> Records:
        llm = provider(settings, database_url=database_url, name="cli:demo")
        try:
            return await take_through(database_url, llm, check=check)
        finally:
            await llm.aclose()

    seen = asyncio.run(take())
    print_records(seen)
    if keep:
        print(f'Look closer: `gristmill projects show "{seen.project}"`, `gristmill records list "{seen.project}"`.')
    else:
        asyncio.run(remove(database_url, seen.project))
    print()
    return seen


async def _score(
    database_url: str, profiles: Sequence[NewProfile], prompt: str, *, check: Callable[[], None]
) -> tuple[Round, Round]:
    rounds = []
    async with opened(database_url) as database:
        profile_ids = await put_profiles(database, profiles)
        for title in ("1st round", "2nd round"):
            job_ids = await enqueue_round(database, profile_ids, prompt)
            with progress(title) as show:
                await follow_round(database_url, job_ids, show, check=check)
            rounds.append(Round(await outcome(database, job_ids)))
    return rounds[0], rounds[1]


def _check_roles(data_dir: Path) -> None:
    """Raise CommandError if a role fails again and again, with what it said last."""
    status = read_status(data_dir)
    for role in status.roles if status else ():
        if role.state == "backing off" and role.restarts >= HOPELESS_RESTARTS:
            log = data_dir.resolve() / LOGS / f"{role.name}.log"
            raise CommandError(f"{role.name} does not start: {last_line(log, 0)} (log: {log})")


@contextmanager
def _system(settings: "Settings", *, keep: bool) -> Iterator[Mapping[str, str]]:
    """Yield the URLs of a running system; stop it in the end if it was started here and is not to be kept."""
    running = read_status(settings.data_dir)
    if running is not None and running.urls:
        print(f"Using the system that runs in {settings.data_dir} (process {running.pid}).")
        yield running.urls
        return
    servers = "" if settings.database_url and settings.redis_url else "Postgres, Valkey, "
    print(f"Starting {servers}{WORKERS} workers, dispatcher, beat and Flower in {settings.data_dir}.", flush=True)
    arguments = ["--workers", str(WORKERS), "--flower-port", str(flower_port_for(settings, None))]
    if keep:
        yield start_detached(settings, arguments).urls
        return
    grace = timedelta(seconds=settings.worker.grace_seconds + 40)
    try:
        yield _start_bound(settings, arguments)
    finally:
        stop_supervisor(settings.data_dir, timeout=grace)


def _start_bound(settings: "Settings", arguments: Sequence[str]) -> Mapping[str, str]:
    """Start a system that ends with this process, however that ends."""
    make_data_dir(settings.data_dir)
    logs = settings.data_dir.resolve() / LOGS
    with open_log(logs, "up") as log:
        beginning = os.fstat(log.fileno()).st_size
        process = spawn([*COMMAND, "up", *arguments], env=os.environ, output=log, dies_by=signal.SIGTERM)
    return await_running(settings.data_dir, process, log=logs / "up.log", beginning=beginning).urls
