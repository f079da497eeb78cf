"""The ``gristmill`` command: its commands put together, and every error told in one line.

Imports no command: each is imported when it runs (:mod:`cli.lazy`).
"""

import io
import os
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli.complaints import complaint
from cli.lazy import Entry, lazy_group
from workers.runtime.refusals import printable

_HERE, _WORK, _ROLES = "This machine", "Work", "One role (what `up` and docker-compose run)"
# Every command of the first level. A help line is the first line of the command's own help; a test compares them.
COMMANDS = (
    Entry(
        "demo",
        "demo:demo",
        _HERE,
        "Score real profiles, take two messy files all the way, assess a server's description; show what came of each.",
    ),
    Entry(
        "up",
        "system:up",
        _HERE,
        "Start everything here: servers if none are configured, schema, workers, dispatcher, beat, Flower.",
    ),
    Entry("down", "system:down", _HERE, "Stop what runs here: drain the workers, then end the rest. Data stays."),
    Entry("status", "system:status", _HERE, "Show what runs here and where it answers. Exit code 1 if nothing does."),
    Entry(
        "logs", "logs:logs", _HERE, "Show what the roles started by `up` have written, the servers' own logs included."
    ),
    Entry(
        "doctor",
        "doctor:doctor",
        _HERE,
        "Check everything Gristmill depends on, and say how to mend what fails. Exit code 1 if anything does.",
    ),
    Entry(
        "config", "config:config", _HERE, "Show every setting with its value, default and meaning; secrets are masked."
    ),
    Entry(
        "migrate",
        "migrate:migrate",
        _HERE,
        "Bring the database's schema to this release, or to one revision. Run it as the tables' owner.",
    ),
    Entry(
        "psql", "psql:psql", _HERE, "Open the database in psql, as its owner or by the login of one kind of process."
    ),
    Entry("enqueue", "enqueue:enqueue", _WORK, "Enqueue one job and print its id."),
    Entry(
        "ingest",
        "ingest:ingest",
        _WORK,
        "Make records of a file's rows, each once, and embed them; tell which were skipped and why.",
    ),
    Entry(
        "similar",
        "similar:similar",
        _WORK,
        "Find the records most like a text or a record, by the cosine of their vectors.",
    ),
    Entry(
        "errors",
        "errors:errors",
        _WORK,
        "Show the top causes of failed jobs by stage, each with a job to look at and the command that retries them.",
    ),
    Entry(
        "workers",
        "workers:workers",
        _WORK,
        "Show every worker process: slots, running jobs, lease, queues, version, provider, last sign of life.",
    ),
    Entry(
        "bench",
        "bench:bench",
        _WORK,
        "Measure the configured system: enqueue rate, drain rate, latency. Other work on it shows in the figures.",
    ),
    Entry("jobs", "jobs:app", _WORK, "List, follow, explain, cancel, retry, repeat and verify jobs."),
    Entry(
        "stages", "stages:app", _WORK, "Show every stage with its counts, oldest wait and rate; pause and resume them."
    ),
    Entry("schedules", "schedules:app", _WORK, "List, show, add, edit, pause, resume, run and remove schedules."),
    Entry("dead", "dead:app", _WORK, "List, show and replay the messages that the Celery door refused."),
    Entry(
        "assessments",
        "assessments:app",
        _WORK,
        "Create, show, change, cancel, give, audit, count and import assessments.",
    ),
    Entry("profiles", "profiles:app", _WORK, "Add, list, show and score profiles."),
    Entry("projects", "projects:app", _WORK, "Make, list and show projects, and give them guidelines."),
    Entry("records", "records:app", _WORK, "List, show, review, export and delete records."),
    Entry("analytics", "analytics:app", _WORK, "Judge and rate records against a project's guidelines."),
    Entry("ratings", "ratings:app", _WORK, "Rate records, list ratings, compare people with models."),
    Entry("windows", "windows:app", _WORK, "Make bonus windows and see who qualifies."),
    Entry("settings", "settings:app", _WORK, "Choose provider and models at run time."),
    Entry(
        "llm",
        "llm:app",
        _WORK,
        "See and steer the calls of models: providers, routes, limits, budgets, prices, spend.",
    ),
    Entry("security", "security:app", _WORK, "Say whom a service may speak for. Run as the tables' owner."),
    Entry("worker", "worker:worker", _ROLES, "Run jobs of the given queues."),
    Entry(
        "dispatcher", "dispatcher:dispatcher", _ROLES, "Give due jobs to the workers. Any number may run; one leads."
    ),
    Entry("beat", "beat:beat", _ROLES, "Fire the schedules. Any number may run; each time fires once."),
    Entry("flower", "flower:flower", _ROLES, "Show jobs and workers in Flower."),
)

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    name="gristmill",
    help="A durable worker system for jobs that call language models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # no command but this one needs it

        print(f"gristmill {version('gristmill')}")
        raise typer.Exit


@app.callback()
def _root(
    *, _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False
) -> None:
    pass


def main() -> int:
    """Run the command of ``sys.argv``; return 0 done, 1 failed, 2 wrong usage."""
    _replace_what_streams_cannot_write()
    try:
        result = typer.main.get_command(app).main(prog_name="gristmill", standalone_mode=False)
        sys.stdout.flush()  # a reader that went away shows here, and not in Python's own flush at exit
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a command of commands, alone: its help is the answer
            print(error.format_message())
            return 0
        return _fail(_usage(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error becomes one line
        if os.environ.get("GRISTMILL_LOG_LEVEL") == "DEBUG":
            traceback.print_exc()
        return _fail(*complaint(error))
    return result if isinstance(result, int) else 0


def _replace_what_streams_cannot_write() -> None:
    """Have standard output and error replace characters that their encoding lacks: a name must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _usage(error: TyperException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "gristmill"
    return f"{message[:1].lower()}{message[1:]} (see `{command} --help`)"


def _fail(line: str, code: int) -> int:
    print(f"gristmill: {printable(line)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
