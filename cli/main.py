"""The ``gristmill`` command: the table of its commands, and one line for every error.

Imports no command: each is imported when it runs (:mod:`cli.lazy`).
"""

import io
import os
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli.error_lines import error_line
from cli.lazy import CommandEntry, lazy_group
from workers.runtime.refusals import printable

_HERE, _WORK, _ROLES = "This machine", "Work", "One role (`up` and docker-compose run these)"
# All commands of the first level. A test checks that each help line is the first line of the command's own help.
COMMANDS = (
    CommandEntry(
        "demo",
        "demo:demo",
        _HERE,
        "Score real profiles, ingest two messy files, assess the description of a server; show the results.",
    ),
    CommandEntry(
        "up",
        "system:up",
        _HERE,
        "Start the whole system here: servers if none are configured, schema, and every role.",
    ),
    CommandEntry(
        "down", "system:down", _HERE, "Stop the system here: drain the workers, then stop the rest. Data stays."
    ),
    CommandEntry(
        "status", "system:status", _HERE, "Show which roles run here, and the URLs. Exit code 1 if nothing runs."
    ),
    CommandEntry("logs", "logs:logs", _HERE, "Show the logs of the roles that `up` started, and those of the servers."),
    CommandEntry(
        "doctor",
        "doctor:doctor",
        _HERE,
        "Check every dependency; say how to repair what fails. Exit code 1 if a check fails.",
    ),
    CommandEntry(
        "config", "config:config", _HERE, "Show every setting with its value, default and meaning. Secrets are masked."
    ),
    CommandEntry(
        "migrate",
        "migrate:migrate",
        _HERE,
        "Migrate the schema to this release, or to one revision. Run it as the owner of the tables.",
    ),
    CommandEntry(
        "psql", "psql:psql", _HERE, "Open the database in psql, as its owner or with the login of one kind of process."
    ),
    CommandEntry("enqueue", "enqueue:enqueue", _WORK, "Enqueue one job and print its id."),
    CommandEntry(
        "ingest",
        "ingest:ingest",
        _WORK,
        "Make records from the rows of a file, each once, and embed them; show which rows were skipped and why.",
    ),
    CommandEntry(
        "similar",
        "similar:similar",
        _WORK,
        "Find the records that are most similar to a text or a record, by the cosine of their vectors.",
    ),
    CommandEntry(
        "errors",
        "errors:errors",
        _WORK,
        "Show the most frequent errors of failed jobs, each with an example and the command that retries its jobs.",
    ),
    CommandEntry(
        "workers",
        "workers:workers",
        _WORK,
        "Show every worker process: slots, running jobs, lease, queues, version, provider, last heartbeat.",
    ),
    CommandEntry(
        "bench",
        "bench:bench",
        _WORK,
        "Measure the configured system: enqueue rate, drain rate, latency. Other work on it changes the figures.",
    ),
    CommandEntry("jobs", "jobs:app", _WORK, "List, follow, explain, cancel, retry, repeat and verify jobs."),
    CommandEntry(
        "stages",
        "stages:app",
        _WORK,
        "Show every stage with its counts, oldest wait and rate; pause and resume stages.",
    ),
    CommandEntry(
        "schedules", "schedules:app", _WORK, "List, show, add, edit, pause, resume, run and remove schedules."
    ),
    CommandEntry("dead", "dead:app", _WORK, "List, show and replay the messages that the Celery door refused."),
    CommandEntry(
        "assessments",
        "assessments:app",
        _WORK,
        "Create, show, change, cancel, give, audit, count and import assessments.",
    ),
    CommandEntry("profiles", "profiles:app", _WORK, "Add, list, show and score profiles."),
    CommandEntry("projects", "projects:app", _WORK, "Make, list and show projects, and give them guidelines."),
    CommandEntry("records", "records:app", _WORK, "List, show, review, export and delete records."),
    CommandEntry("analytics", "analytics:app", _WORK, "Judge and rate records by the guidelines of their project."),
    CommandEntry(
        "ratings", "ratings:app", _WORK, "Rate records, list ratings, compare the ratings of people and models."
    ),
    CommandEntry("windows", "windows:app", _WORK, "Make bonus windows and show who qualifies."),
    CommandEntry("settings", "settings:app", _WORK, "Choose the provider and the models while the system runs."),
    CommandEntry(
        "llm",
        "llm:app",
        _WORK,
        "See and control the calls of models: providers, routes, limits, budgets, prices, spend.",
    ),
    CommandEntry(
        "security",
        "security:app",
        _WORK,
        "Control for which users a service may act. Run it as the owner of the tables.",
    ),
    CommandEntry("keys", "keys:app", _WORK, "Make, list and revoke the API keys of the gateway's clients."),
    CommandEntry(
        "callbacks", "callbacks:app", _WORK, "See and send again what is told of ended jobs; keep the endpoints."
    ),
    CommandEntry("worker", "worker:worker", _ROLES, "Run jobs of the given queues."),
    CommandEntry(
        "dispatcher", "dispatcher:dispatcher", _ROLES, "Give due jobs to the workers. Any number may run; one leads."
    ),
    CommandEntry("beat", "beat:beat", _ROLES, "Fire the schedules. Any number may run; each time fires once."),
    CommandEntry("gateway", "gateway:gateway", _ROLES, "Serve the HTTP interface. Any number may run."),
    CommandEntry("flower", "flower:flower", _ROLES, "Show jobs and workers in Flower."),
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
        from importlib.metadata import version  # only this option needs it

        print(f"gristmill {version('gristmill')}")
        raise typer.Exit


@app.callback()
def _root(
    *, _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False
) -> None:
    pass


def main() -> int:
    """Run the command of ``sys.argv``; return 0 done, 1 failed, 2 wrong usage."""
    _replace_unencodable()
    try:
        result = typer.main.get_command(app).main(prog_name="gristmill", standalone_mode=False)
        sys.stdout.flush()  # raises BrokenPipeError here, and not when Python flushes at exit
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command prints its help
            print(error.format_message())
            return 0
        return _fail(_usage(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output has closed the pipe. Python would print an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error becomes one line
        if os.environ.get("GRISTMILL_LOG_LEVEL") == "DEBUG":
            traceback.print_exc()
        return _fail(*error_line(error))
    return result if isinstance(result, int) else 0


def _replace_unencodable() -> None:
    """Make standard output and error replace characters that their encoding does not have, instead of failing."""
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
