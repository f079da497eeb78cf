"""``gristmill jobs``: its commands, each imported when it runs."""

import typer

from cli.lazy import Entry, lazy_group

COMMANDS = (
    Entry(
        "cancel", "jobs_change:cancel", None, "Cancel jobs, ready or running. A running one is stopped within a second."
    ),
    Entry(
        "retry",
        "jobs_change:retry",
        None,
        "Send failed jobs back to ready; one without an attempt left is granted one, where its table allows it.",
    ),
    Entry(
        "again",
        "jobs_again:again",
        None,
        "Enqueue jobs that ended once more, as new jobs with all their attempts: failed ones, or any by their ids.",
    ),
    Entry("list", "jobs_look:list_", None, "List jobs, newest first."),
    Entry(
        "show",
        "jobs_look:show",
        None,
        "Show one job, its result, what its calls of models used and cost, and its history.",
    ),
    Entry(
        "watch",
        "jobs_look:watch",
        None,
        "Follow one job to its end, or all that is going on until Ctrl-C. Exit code 1 unless the job completed.",
    ),
    Entry("why", "jobs_look:why", None, "Say what a job waits for, or what became of it."),
    Entry(
        "verify",
        "jobs_look:verify",
        None,
        "Check every job against its history: none lost, each ended at most once, no gap and nothing twice.",
    ),
)

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="List, follow, explain, cancel, retry, repeat and verify jobs.",
    no_args_is_help=True,
)
app.callback()(lambda: None)
