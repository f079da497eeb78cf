"""Run the demonstration: use the running system or start one; score, ingest, assess; print the results."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cli.connection import actor, open_database
from cli.demo.assessing import DemoAssessment, run_assessment, verdict_lines
from cli.demo.created_ids import CreatedIds, delete_created
from cli.demo.display import step_display
from cli.demo.packages import list_packages
from cli.demo.report import Round, print_report
from cli.demo.sample_files import QUESTION, SampleFiles, process_samples, samples_exist
from cli.demo.sample_files_report import print_sample_files
from cli.demo.scoring import follow_round
from cli.output import print_wrapped
from cli.profile_file import read_profiles
from cli.program import command_line
from cli.provider import provider
from cli.running_system import absolute_path
from cli.server_urls import find_server_urls
from cli.values import format_count
from config.settings import Settings
from local.data_dir import LOGS, last_line, make_data_dir, open_log
from local.embedded import embedded_servers
from local.embedded.ports import choose_port, is_free
from local.processes import spawn
from local.supervision_status import read_status, stop_supervisor
from local.system import COMMAND, await_running, start_detached
from workers.runtime.refusals import Failed
from workers.scoring.profiles import NewProfile, put_profiles
from workers.scoring.rounds import enqueue_round, round_outcome
from workers.scoring.rubric import DEFAULT_CRITERIA, PACKAGE_PROMPT, render

WORKERS = 2
MAX_RESTARTS = 3
# The built-in criteria that fit any profile. Relevance does not: it needs a task.
PROFILE_PROMPT = render(
    [criterion for criterion in DEFAULT_CRITERIA if criterion.name != "relevance"],
    task="Judge how well this profile tells what or who it describes, for whom, and on what evidence.",
)


def run_demo(settings: Settings, file: Path | None, *, keep: bool) -> int:
    """Score the profiles of ``file``, or the installed packages and then ingest the sample files; then assess.

    Return 0 if every job completed. A system that already runs here is used and not stopped. A system that this
    function starts is stopped at the end unless ``keep``. The created rows stay.
    """
    profiles = read_profiles(file) if file else list_packages()
    count = format_count(len(profiles), "profile" if file else "Python package")
    print_wrapped([f"Scoring {count} {f'of {file}' if file else 'installed here'}, twice."])
    name = f"demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    with _system(settings, keep=keep) as urls:
        print_wrapped([f"Watch the jobs in Flower meanwhile: {urls['flower_url']}/tasks"])
        demo = Demo(settings, urls["database_url"], name, CreatedIds.read(settings.data_dir))
        first, again = asyncio.run(demo.score(profiles, PROFILE_PROMPT if file else PACKAGE_PROMPT))
        print_report(first, again)
        records = None if file else demo.ingest_samples()
        assessed = demo.assess()
    is_running = read_status(settings.data_dir) is not None
    print_wrapped(["", closing_line(settings, is_running=is_running)])
    for command in next_commands(name, with_records=records is not None, is_running=is_running):
        print(f"  {command}")  # not wrapped: people copy it
    failed = first.failed or again.failed or (records and records.failed) or assessed.result is None
    return 1 if failed else 0


def next_commands(name: str, *, with_records: bool, is_running: bool) -> list[str]:
    """Return three commands to run next, as they must be typed here."""
    show = [f"assessments show {name}", "jobs list --limit 10"]
    if with_records:
        show[1] = f'similar "{QUESTION}" --project {name}'
    commands = [*show, "down"] if is_running else ["up --detach", *show]
    return [command_line(words) for words in commands]


def closing_line(settings: Settings, *, is_running: bool) -> str:
    """Return the last line: whether the system runs, and where the results are."""
    state = "The system keeps running" if is_running else "The system is stopped"
    place = "the database" if settings.database_url is not None else settings.data_dir
    return f"{state}; the results stay in {place} until `{command_line('demo --clean')}`. Next:"


def delete_results(settings: Settings) -> int:
    """Delete the rows that demonstrations of this data folder have created."""
    created = CreatedIds.read(settings.data_dir)
    if not created:
        print(f"there are no results of demonstrations in {absolute_path(settings.data_dir)}")
        return 0
    with _database(settings) as database_url:
        deleted = asyncio.run(_delete(database_url, created))
    counts = ", ".join(format_count(count, kind.removesuffix("s")) for kind, count in deleted.items())
    print(f"removed {counts}; the history of the jobs stays")
    return 0


async def _delete(database_url: str, created: CreatedIds) -> dict[str, int]:
    async with open_database(database_url) as database, database.session() as session:
        deleted = await delete_created(session, created, actor=actor())
    created.delete_file()
    return deleted


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Yield the URL of the database with the results. If it does not run, start it for this command."""
    running = read_status(settings.data_dir)
    if settings.database_url is not None or running is not None:
        yield find_server_urls(settings).database_url
        return
    with embedded_servers(settings.data_dir, valkey=False) as urls:
        yield urls.database_url


@dataclass(frozen=True, slots=True)
class Demo:
    """One demonstration on a running system. ``created`` stores the ids of its rows."""

    settings: Settings
    database_url: str
    name: str
    created: CreatedIds

    def check(self) -> None:
        """Raise Failed if a role has been restarted too often."""
        _check_roles(self.settings.data_dir)

    async def score(self, profiles: Sequence[NewProfile], prompt: str) -> tuple[Round, Round]:
        """Score the profiles twice."""
        rounds = []
        async with open_database(self.database_url) as database:
            async with database.session() as session:
                profile_ids = await put_profiles(
                    session, profiles, made=lambda ids: self.created.add("profiles", ids), actor=actor()
                )
            for title in ("1st round", "2nd round"):
                async with database.session() as session:
                    job_ids = await enqueue_round(session, profile_ids, prompt, actor=actor())
                self.created.add("jobs", job_ids)
                with step_display(title) as show:
                    await follow_round(self.database_url, job_ids, show, check=self.check)
                async with database.session() as session:
                    rounds.append(Round(await round_outcome(session, job_ids)))
        return rounds[0], rounds[1]

    def ingest_samples(self) -> SampleFiles | None:
        """Ingest, embed, compare and rate the sample files; return None if this installation has none."""
        if not samples_exist():
            print_wrapped(["", "This installation has no sample files; a clone of the repository has them."])
            return None
        print_wrapped(["", "Ingesting samples/tasks.csv and samples/feedback.csv, which are as messy as real exports."])

        async def process() -> SampleFiles:
            llm = provider(self.settings, database_url=self.database_url, name="cli:demo")
            try:
                return await process_samples(
                    self.database_url,
                    llm,
                    self.name,
                    on_created=lambda id_: self.created.add("projects", [id_]),
                    check=self.check,
                )
            finally:
                await llm.aclose()

        samples = asyncio.run(process())
        print_sample_files(samples)
        return samples

    def assess(self) -> DemoAssessment:
        """Assess the description of a server and print the verdict."""
        print_wrapped(["", "Assessing the description of a made-up MCP server: by rules, and by a rubric."])
        assessment = asyncio.run(
            run_assessment(
                self.database_url,
                self.name,
                on_created=lambda id_: self.created.add("assessments", [id_]),
                check=self.check,
            )
        )
        print_wrapped(verdict_lines(assessment))
        return assessment


def _check_roles(data_dir: Path) -> None:
    """Raise Failed with the last log line of a role that has been restarted too often."""
    status = read_status(data_dir)
    for role in status.roles if status else ():
        if role.state == "backing off" and role.restarts >= MAX_RESTARTS:
            log = data_dir.resolve() / LOGS / f"{role.name}.log"
            raise Failed(f"{role.name} does not start: {last_line(log, 0)} (log: {log})")


@contextmanager
def _system(settings: Settings, *, keep: bool) -> Iterator[Mapping[str, str]]:
    """Yield the URLs of a running system. If it was started here, stop it at the end unless ``keep``."""
    running = read_status(settings.data_dir)
    if running is not None and running.urls:
        print_wrapped([f"Using the system that runs in {settings.data_dir} (process {running.pid})."])
        yield running.urls
        return
    servers = "" if settings.database_url and settings.redis_url else "Postgres, Valkey, "
    print_wrapped(
        [f"Starting {servers}{WORKERS} workers, dispatcher, beat, gateway and Flower in {settings.data_dir}."]
    )
    arguments = ["--workers", str(WORKERS), "--flower-port", str(_free_port(settings.flower.port, "Flower"))]
    arguments += ["--port", str(_free_port(settings.gateway.port, "the gateway"))]
    if keep:
        yield start_detached(settings, arguments).urls
        return
    grace = timedelta(seconds=settings.worker.grace_seconds + 40)
    try:
        yield _start_bound(settings, arguments)
    finally:
        stop_supervisor(settings.data_dir, timeout=grace)


def _free_port(port: int, name: str) -> int:
    """Return ``port``, or a free one if another process uses it."""
    if is_free(port):
        return port
    other = choose_port()
    print_wrapped([f"Port {port} is taken by another process: {name} answers on {other} instead."])
    return other


def _start_bound(settings: Settings, arguments: Sequence[str]) -> Mapping[str, str]:
    """Start a system that ends when this process ends, in whatever way."""
    make_data_dir(settings.data_dir)
    logs = settings.data_dir.resolve() / LOGS
    with open_log(logs, "up") as log:
        beginning = os.fstat(log.fileno()).st_size
        process = spawn([*COMMAND, "up", *arguments], env=os.environ, output=log, end_signal=signal.SIGTERM)
    return await_running(settings.data_dir, process, log=logs / "up.log", beginning=beginning).urls
