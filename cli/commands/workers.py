"""``gristmill workers``: show every worker process."""

from cli.connection import in_connection
from cli.output import Json, print_json, print_table, remark
from cli.values import format_duration
from workers.llm.answering import describe_report
from workers.runtime.operate.workers import WorkerView, list_workers

_COLUMNS = ("WORKER", "STATE", ">RUNNING", ">SLOTS", ">SEEN", ">LEASE", ">UP", "VERSION", "QUEUES", "PROVIDER")


def workers(as_json: Json = False) -> None:
    """Show every worker process: slots, running jobs, lease, queues, version, provider, last heartbeat."""
    found = in_connection(list_workers)
    if as_json:
        print_json(found)
    elif found:
        print_table(_COLUMNS, map(_row, found), keep={"WORKER", "STATE"})
    else:
        remark("no worker has registered; start one: `gristmill up`, or `gristmill worker`")


def _row(one: WorkerView) -> tuple[object, ...]:
    up = one.heartbeat_at - one.started_at + one.silent_for
    return (
        one.name,
        one.state,
        one.running,
        one.slots,
        f"{format_duration(one.silent_for)} ago",
        format_duration(one.lease_until - one.heartbeat_at),
        format_duration(up),
        one.version,
        ", ".join(one.queues),
        describe_report(one.provider),
    )
