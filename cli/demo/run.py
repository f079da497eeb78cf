"""Run the demonstration: use the system that runs here or start one, score, take files through, assess, report."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cli.addresses import addresses
from cli.connection import actor, opened
from cli.demo.assessing import Assessed, assess, lines
from cli.demo.display import progress
from cli.demo.made import Made, remove
from cli.demo.packages import installed
from cli.demo.profile_file import read
from cli.demo.report import Round, print_report
from cli.demo.sample_files import QUESTION, SampleFiles, available, take_through
from cli.demo.sample_files_report import print_sample_files
from cli.demo.scoring import follow_round
from cli.provider import provider
from cli.typed import typed
from cli.values import counted
from cli.whereabouts import shown
from config.settings import Settings
from local.data_dir import LOGS, last_line, make_data_dir, open_log
from local.embedded import embedded_servers
from local.embedded.ports import choose_port, is_free
from local.processes import spawn
from local.supervision_status import read_status, stop_supervisor
from local.system import COMMAND, await_running, start_detached
from workers.runtime.refusals import Failed, printable
from workers.scoring.profiles import NewProfile, put_profiles
from workers.scoring.rounds import enqueue_round, round_outcome
from workers.scoring.rubric import DEFAULT_CRITERIA, PACKAGE_PROMPT, render

WORKERS = 2
HOPELESS_RESTARTS = 3
# Of the built-in criteria those that fit any profile: relevance needs a task that only its owner could name.
PROFILE_PROMPT = render(
    [criterion for criterion in DEFAULT_CRITERIA if criterion.name != "relevance"],
    task="Judge how well this profile tells what or who it describes, for whom, and on what evidence.",
)


def run(settings: Settings, file: Path | None, *, keep: bool) -> int:
    """Score the profiles of ``file``, or the installed packages and then take the sample files through; assess.

    Return 0 if every job completed. A system that already runs here is used and left alone; one that was started is
    stopped unless ``keep``. What was made stays, to be looked at.
    """
    profiles = read(file) if file else installed()
    number = len(profiles)
    what = f"{counted(number, 'profile')} of {file}" if file else f"{counted(number, 'Python package')} installed here"
    print(f"Scoring {what}, twice.", flush=True)
    name = f"demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    with _system(settings, keep=keep) as urls:
        print(f"Watch the jobs in Flower meanwhile: {urls['flower_url']}/tasks", flush=True)
        demo = Demo(settings, urls["database_url"], name, Made.read(settings.data_dir))
        first, again = asyncio.run(demo.score(profiles, PROFILE_PROMPT if file else PACKAGE_PROMPT))
        print_report(first, again)
        records = None if file else demo.take_files_through()
        assessed = demo.assess()
    runs_on = read_status(settings.data_dir) is not None
    print("\n".join(ending(settings, name, with_records=records is not None, runs_on=runs_on)))
    failed = first.failed or again.failed or (records and records.failed) or assessed.result is None
    return 1 if failed else 0


def ending(settings: Settings, name: str, *, with_records: bool, runs_on: bool) -> list[str]:
    """Return the last lines: what runs, what stays, and the next three commands as they must be typed here."""
    look = [f"assessments show {name}", "jobs list --limit 10"]
    if with_records:
        look[1] = f'similar "{QUESTION}" --project {name}'
    commands = [*look, "down"] if runs_on else ["up --detach", *look]
    state = "Everything runs on" if runs_on else "Everything is stopped"
    results = f"the results stay in {settings.data_dir} until `{typed('demo --clean')}`"
    if settings.database_url is not None:
        results = f"the results stay in the database until `{typed('demo --clean')}`"
    return ["", f"{state}; {results}. Next:", *(f"  {typed(command)}" for command in commands)]


def clean(settings: Settings) -> int:
    """Remove what demonstrations of this data folder have left in the database."""
    made = Made.read(settings.data_dir)
    if not made:
        print(f"no demonstration has left anything in {shown(settings.data_dir)}")
        return 0
    with _database(settings) as database_url:
        removed = asyncio.run(_remove(database_url, made))
    print(
        "removed "
        + ", ".join(f"{count} {what if count != 1 else what[:-1]}" for what, count in removed.items())
        + "; the jobs' history stays"
    )
    return 0


async def _remove(database_url: str, made: Made) -> dict[str, int]:
    async with opened(database_url) as database, database.session() as session:
        removed = await remove(session, made, actor=actor())
    made.forget()
    return removed


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Yield where the results are: the configured database, that of the running system, or the one that is stopped."""
    running = read_status(settings.data_dir)
    if settings.database_url is not None or running is not None:
        yield addresses(settings).database_url
        return
    with embedded_servers(settings.data_dir, valkey=False) as urls:
        yield urls.database_url


@dataclass(frozen=True, slots=True)
class Demo:
    """One demonstration on a running system; ``made`` remembers what it leaves."""

    settings: Settings
    database_url: str
    name: str
    made: Made

    def check(self) -> None:
        """Raise Failed if a role fails again and again."""
        _check_roles(self.settings.data_dir)

    async def score(self, profiles: Sequence[NewProfile], prompt: str) -> tuple[Round, Round]:
        """Score the profiles twice."""
        rounds = []
        async with opened(self.database_url) as database:
            async with database.session() as session:
                made = lambda ids: self.made.add("profiles", ids)  # noqa: E731 - one line, used once
                profile_ids = await put_profiles(session, profiles, made=made, actor=actor())
            for title in ("1st round", "2nd round"):
                async with database.session() as session:
                    job_ids = await enqueue_round(session, profile_ids, prompt, actor=actor())
                self.made.add("jobs", job_ids)
                with progress(title) as show:
                    await follow_round(self.database_url, job_ids, show, check=self.check)
                async with database.session() as session:
                    rounds.append(Round(await round_outcome(session, job_ids)))
        return rounds[0], rounds[1]

    def take_files_through(self) -> SampleFiles | None:
        """Ingest, embed, compare and rate the sample files, where they are."""
        if not available():
            print("\nThe sample files did not come along with this installation: a clone of the repository has them.")
            return None
        print(
            "\nIngesting samples/tasks.csv and samples/feedback.csv, with the mess of real exports in them.", flush=True
        )

        async def take() -> SampleFiles:
            llm = provider(self.settings, database_url=self.database_url, name="cli:demo")
            try:
                made = lambda id_: self.made.add("projects", [id_])  # noqa: E731 - one line, used once
                return await take_through(self.database_url, llm, self.name, made=made, check=self.check)
            finally:
                await llm.aclose()

        seen = asyncio.run(take())
        print_sample_files(seen)
        return seen

    def assess(self) -> Assessed:
        """Assess a server's description and print the verdict."""
        print("\nAssessing the description of a made-up MCP server: by rules, and by a rubric.", flush=True)
        made = lambda id_: self.made.add("assessments", [id_])  # noqa: E731 - as above
        seen = asyncio.run(assess(self.database_url, self.name, made=made, check=self.check))
        print(printable("\n".join(lines(seen))))
        return seen


def _check_roles(data_dir: Path) -> None:
    """Raise Failed if a role fails again and again, with what it said last."""
    status = read_status(data_dir)
    for role in status.roles if status else ():
        if role.state == "backing off" and role.restarts >= HOPELESS_RESTARTS:
            log = data_dir.resolve() / LOGS / f"{role.name}.log"
            raise Failed(f"{role.name} does not start: {last_line(log, 0)} (log: {log})")


@contextmanager
def _system(settings: Settings, *, keep: bool) -> Iterator[Mapping[str, str]]:
    """Yield the URLs of a running system; stop it in the end if it was started here and is not to be kept."""
    running = read_status(settings.data_dir)
    if running is not None and running.urls:
        print(f"Using the system that runs in {settings.data_dir} (process {running.pid}).")
        yield running.urls
        return
    servers = "" if settings.database_url and settings.redis_url else "Postgres, Valkey, "
    print(f"Starting {servers}{WORKERS} workers, dispatcher, beat and Flower in {settings.data_dir}.", flush=True)
    arguments = ["--workers", str(WORKERS), "--flower-port", str(_flower_port(settings))]
    if keep:
        yield start_detached(settings, arguments).urls
        return
    grace = timedelta(seconds=settings.worker.grace_seconds + 40)
    try:
        yield _start_bound(settings, arguments)
    finally:
        stop_supervisor(settings.data_dir, timeout=grace)


def _flower_port(settings: Settings) -> int:
    """Return the port of the settings, or a free one where somebody has that: a demonstration gives way."""
    port = settings.flower.port
    if is_free(port):
        return port
    other = choose_port()
    print(f"Port {port} is taken by another process: Flower answers on {other} instead.", flush=True)
    return other


def _start_bound(settings: Settings, arguments: Sequence[str]) -> Mapping[str, str]:
    """Start a system that ends with this process, however that ends."""
    make_data_dir(settings.data_dir)
    logs = settings.data_dir.resolve() / LOGS
    with open_log(logs, "up") as log:
        beginning = os.fstat(log.fileno()).st_size
        process = spawn([*COMMAND, "up", *arguments], env=os.environ, output=log, end_signal=signal.SIGTERM)
    return await_running(settings.data_dir, process, log=logs / "up.log", beginning=beginning).urls
