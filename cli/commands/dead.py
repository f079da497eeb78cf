"""``gristmill dead``: the messages that the Celery door refused, with the reasons; replay them after a correction."""

from typing import Annotated

import typer

from cli.connection import actor
from cli.output import Json, one_line, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_time
from workers.runtime.operate.dead_letters import list_dead, replay_dead, show_dead
from workers.runtime.refusals import Refusal, printable

app = typer.Typer(help="List, show and replay the messages that the Celery door refused.", no_args_is_help=True)

DEFAULT_LIMIT = 1_000


@app.command("list")
def list_(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also list messages that were replayed.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of messages, the newest.")] = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """List the refused messages, newest first. Messages with the same content are one row, with their number."""
    rows = in_session(lambda session: list_dead(session, with_replayed=everything, limit=limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        ("ID", "LAST", ">TIMES", "TASK", "REASON"),
        (
            (row.id, format_time(row.last_received_at), row.count, row.task or "–", _reason(row.reason, row.job_id))
            for row in rows
        ),
        keep={"ID", "LAST", "TIMES"},
    )


def _reason(reason: str, job_id: object) -> str:
    return f"replayed as job {job_id}; was: {reason}" if job_id else reason


@app.command()
def show(message: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show one refused message with its content. The beginning of an ID is enough."""
    row = in_session(lambda session: show_dead(session, message))
    if as_json:
        print_json(row)
        return
    facts = {
        "id": row.id,
        "reason": row.reason,
        "times": row.count,
        "first": format_time(row.received_at),
        "last": format_time(row.last_received_at),
        "task": row.task,
        "message id": row.message_id,
        "queue": row.queue,
        "content type": row.content_type,
        "size": f"{row.size:,} bytes",
        "arguments": row.arguments,
        "keywords": row.keywords,
        "body": None if row.arguments is not None else (row.body or b"").decode("utf-8", "backslashreplace")[:2_000],
        "replayed": format_time(row.replayed_at),
        "job": row.job_id,
    }
    print_table(("FACT", "VALUE"), ((fact, one_line(value)) for fact, value in facts.items() if value), keep={"FACT"})


@app.command()
def replay(
    messages: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="The messages; or --all.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All messages that were not replayed.")] = False,
    as_json: Json = False,
) -> None:
    """Send refused messages to the door again, each by itself, and show the results.

    Exit code 1 if a message is refused again or cannot be replayed.
    """
    if bool(messages) == everything:
        raise Refusal("name the messages to replay, or --all")
    done = in_session(lambda session: replay_dead(session, None if everything else messages, actor()))
    failed = [one for one in done if one.outcome in {"refused", "kept"}]
    if as_json:
        print_json(done)
    else:
        for one in done:
            result = f"job {one.job_id}" if one.job_id else one.reason
            print(printable(f"{one.id} {one.outcome}: {result}"))
        remark(f"{len(done) - len(failed)} of {len(done)} replayed")
    if failed:
        raise typer.Exit(1)
