"""The ``gristmill`` command: its commands put together, and every error told in one line.

Imported by every command, `gristmill --help` included: what is heavy is imported by the command that needs it.
"""

import os
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli.commands import (
    analytics,
    assessments,
    bench,
    config,
    dead,
    demo,
    doctor,
    enqueue,
    errors,
    ingest,
    jobs,
    logs,
    migrate,
    projects,
    ratings,
    records,
    roles,
    schedules,
    security,
    settings,
    similar,
    stages,
    system,
    windows,
    workers,
)
from cli.complaints import complaint

app = typer.Typer(
    name="gristmill",
    help="A durable worker system for jobs that call language models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"gristmill {version('gristmill')}")
        raise typer.Exit


@app.callback()
def _root(
    *, _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False
) -> None:
    pass


_HERE, _WORK, _ROLES = "This machine", "Work", "One role (what `up` and docker-compose run)"
for name, function, panel in (
    ("demo", demo.demo, _HERE),
    ("up", system.up, _HERE),
    ("down", system.down, _HERE),
    ("status", system.status, _HERE),
    ("logs", logs.logs, _HERE),
    ("doctor", doctor.doctor, _HERE),
    ("config", config.config, _HERE),
    ("migrate", migrate.migrate, _HERE),
    ("enqueue", enqueue.enqueue, _WORK),
    ("ingest", ingest.ingest, _WORK),
    ("similar", similar.similar, _WORK),
    ("errors", errors.errors, _WORK),
    ("workers", workers.workers, _WORK),
    ("bench", bench.bench, _WORK),
    ("worker", roles.worker, _ROLES),
    ("dispatcher", roles.dispatcher, _ROLES),
    ("beat", roles.beat, _ROLES),
    ("flower", roles.flower, _ROLES),
):
    app.command(name, rich_help_panel=panel)(function)
for name, group in (
    ("jobs", jobs.app),
    ("stages", stages.app),
    ("schedules", schedules.app),
    ("dead", dead.app),
    ("assessments", assessments.app),
    ("projects", projects.app),
    ("records", records.app),
    ("analytics", analytics.app),
    ("ratings", ratings.app),
    ("windows", windows.app),
    ("settings", settings.app),
    ("security", security.app),
):
    app.add_typer(group, name=name, rich_help_panel=_WORK)


def main() -> int:
    """Run the command of ``sys.argv``; return 0 done, 1 failed, 2 wrong usage."""
    try:
        result = typer.main.get_command(app).main(prog_name="gristmill", standalone_mode=False)
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


def _usage(error: TyperException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "gristmill"
    return f"{message[:1].lower()}{message[1:]} (see `{command} --help`)"


def _fail(line: str, code: int) -> int:
    print(f"gristmill: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
