"""``gristmill dead``: the messages that the Celery door refused, with their reasons; replay them once mended."""

from typing import Annotated

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import moment
from workers.runtime.operate.dead_letters import list_dead, replay_dead, show_dead
from workers.runtime.refusals import Refusal, printable

app = typer.Typer(help="List, show and replay the messages that the Celery door refused.", no_args_is_help=True)

MOST_LISTED = 1_000


@app.command("list")
def list_(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that were replayed as well.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = MOST_LISTED,
    as_json: Json = False,
) -> None:
    """List the refused messages, newest first; messages of one content are one, with how often it came."""
    rows = in_session(lambda session: list_dead(session, with_replayed=everything, limit=limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        ("ID", "LAST", ">TIMES", "TASK", "REASON"),
        (
            (row.id, moment(row.last_received_at), row.count, row.task or "–", _reason(row.reason, row.job_id))
            for row in rows
        ),
        keep={"ID", "LAST", "TIMES"},
    )


def _reason(reason: str, job_id: object) -> str:
    return f"replayed as job {job_id}; was: {reason}" if job_id else reason


@app.command()
def show(message: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show one refused message with what it brought. ID may be the beginning of one."""
    row = in_session(lambda session: show_dead(session, message))
    if as_json:
        print_json(row)
        return
    facts = {
        "id": row.id,
        "reason": row.reason,
        "times": row.count,
        "first": moment(row.received_at),
        "last": moment(row.last_received_at),
        "task": row.task,
        "message id": row.message_id,
        "queue": row.queue,
        "content type": row.content_type,
        "size": f"{row.size:,} bytes",
        "arguments": row.arguments,
        "keywords": row.keywords,
        "body": None if row.arguments is not None else (row.body or b"").decode("utf-8", "backslashreplace")[:2_000],
        "replayed": moment(row.replayed_at),
        "job": row.job_id,
    }
    print_table(("FACT", "VALUE"), ((fact, value) for fact, value in facts.items() if value), keep={"FACT"})


@app.command()
def replay(
    messages: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Which; or --all.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    as_json: Json = False,
) -> None:
    """Put refused messages through the door again, each by itself, and tell what became of it.

    Exits 1 if one was refused again or cannot be replayed.
    """
    if bool(messages) == everything:
        raise Refusal("name the messages to replay, or --all")
    done = in_session(lambda session: replay_dead(session, None if everything else messages, actor()))
    failed = [one for one in done if one.outcome in {"refused", "kept"}]
    if as_json:
        print_json(done)
    else:
        for one in done:
            became = f"job {one.job_id}" if one.job_id else one.reason
            print(printable(f"{one.id} {one.outcome}: {became}"))
        remark(f"{len(done) - len(failed)} of {len(done)} replayed")
    if failed:
        raise typer.Exit(1)
