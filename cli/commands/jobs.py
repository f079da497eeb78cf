"""``gristmill jobs``: the table of its commands; each is imported when it runs."""

import typer

from cli.lazy import CommandEntry, lazy_group

COMMANDS = (
    CommandEntry(
        "cancel", "jobs_change:cancel", None, "Cancel jobs that have not ended. A running one stops within a second."
    ),
    CommandEntry(
        "retry",
        "jobs_change:retry",
        None,
        "Send failed jobs back to ready. One without attempts left gets another, if its table allows it.",
    ),
    CommandEntry(
        "again",
        "jobs_again:again",
        None,
        "Enqueue ended jobs again, as new jobs with all attempts: failed ones by filters, or any by their ids.",
    ),
    CommandEntry("list", "jobs_look:list_", None, "List jobs, newest first."),
    CommandEntry("show", "jobs_look:show", None, "Show one job, its result and its history."),
    CommandEntry(
        "watch",
        "jobs_look:watch",
        None,
        "Follow one job to its end, or all stages and jobs until Ctrl-C. Exit code 1 unless the job completes.",
    ),
    CommandEntry("why", "jobs_look:why", None, "Say what a job waits for, where it runs, or how it ended."),
    CommandEntry(
        "verify",
        "jobs_look:verify",
        None,
        "Check every job against its history: none lost, each ended at most once, no version missing or double.",
    ),
)

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="List, follow, explain, cancel, retry, repeat and verify jobs.",
    no_args_is_help=True,
)
app.callback()(lambda: None)
