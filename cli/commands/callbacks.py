"""``gristmill callbacks``: deliveries of notices of ended jobs, and the endpoints that get them."""

from typing import Annotated, Any
from uuid import UUID

import typer

from cli.completing import complete_stage
from cli.connection import actor, in_connection
from cli.output import Json, print_json, print_table, remark
from cli.secret_keys import find_keys
from cli.values import format_time, parse_age
from config.settings import load
from workers.notifications import deliveries, endpoints
from workers.notifications.deliveries import AttemptView, DeliveryView
from workers.notifications.endpoints import EndpointView, NewSecret
from workers.notifications.rules import CallbackRules, without_query
from workers.operations.keyring import Keyring
from workers.outbound.addresses import parse_networks
from workers.runtime.actor import Actor
from workers.runtime.database import Raw
from workers.runtime.refusals import Problem, Refusal

app = typer.Typer(help="See and send again what is told of ended jobs; keep the endpoints.", no_args_is_help=True)
endpoints_app = typer.Typer(help="List endpoints; add, change, rotate, test and remove them.")
app.add_typer(endpoints_app, name="endpoints")

DeliveryId = Annotated[UUID, typer.Argument(metavar="DELIVERY", help="Its id.")]
EndpointId = Annotated[UUID, typer.Argument(metavar="ENDPOINT", help="Its id.")]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Tell of this stage only; may be given again.", autocompletion=complete_stage),
]
Owner = Annotated[
    UUID | None, typer.Option(metavar="USER_ID", help="Of this user (auth.users). Default: of the operators.")
]
Overlap = Annotated[
    str, typer.Option(metavar="AGE", help="How long the old secret still signs too; 0s if others know it.")
]


@app.command("list")
def list_(
    *,
    endpoint: Annotated[UUID | None, typer.Option(metavar="ID", help="Only deliveries to this endpoint.")] = None,
    job: Annotated[UUID | None, typer.Option(metavar="ID", help="Only what was told of this job.")] = None,
    status: Annotated[str | None, typer.Option(help=f"One of {', '.join(deliveries.STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most deliveries to show.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first."""
    found, rest = in_connection(
        lambda conn: deliveries.list_deliveries(
            conn, endpoint_id=endpoint, job_id=job, status=status, limit=limit, cursor=after
        )
    )
    if as_json:
        print_json({"items": found, "next": rest})
        return
    if not found:
        remark("no deliveries match")
        return
    print_table(
        ("ID", "STATUS", "EVENT", "DESTINATION", ">ATTEMPTS", "LAST ANSWER", "NEXT ATTEMPT", "JOB", "MADE"),
        (
            (
                one.id,
                one.status,
                one.event,
                one.destination or "–",
                len(one.attempts),
                _last_answer(one),
                format_time(one.next_attempt_at),
                one.job_id,
                format_time(one.created_at),
            )
            for one in found
        ),
    )
    if rest:
        remark(f"more: --after {rest}")


@app.command()
def show(delivery: DeliveryId, as_json: Json = False) -> None:
    """Show a delivery with its attempts."""
    found = in_connection(lambda conn: deliveries.find_delivery(conn, delivery))
    if as_json:
        print_json(found)
        return
    _print_delivery(found)


@app.command()
def resend(
    delivery: DeliveryId,
    reason: Annotated[str | None, typer.Option(help="Why; the history shows it.")] = None,
    as_json: Json = False,
) -> None:
    """Send an ended delivery again, under the same webhook-id and by the whole schedule."""
    found = in_connection(lambda conn: deliveries.resend_delivery(conn, actor(reason), delivery))
    if as_json:
        print_json(found)
        return
    print(f"delivery {found.id} is {found.status} again")


@app.command()
def secret(owner: Owner = None, overlap: Overlap = "1d", as_json: Json = False) -> None:
    """Make or replace the secret that signs what goes to the callback_url of jobs, and print it."""
    made = in_connection(
        lambda conn: endpoints.replace_one_off_secret(
            conn, _acting_for(owner), rules=_rules(), overlap=parse_age(overlap)
        )
    )
    _print_secret(made, as_json=as_json)


@endpoints_app.callback(invoke_without_command=True)
def list_endpoints(context: typer.Context, as_json: Json = False) -> None:
    """List endpoints; add, change, rotate, test and remove them."""
    if context.invoked_subcommand is not None:
        return
    found = _all_endpoints()
    if as_json:
        print_json(found)
        return
    if not found:
        remark("no endpoints; `gristmill callbacks endpoints add URL` makes one")
        return
    print_table(
        ("ID", "STATE", "URL", "STAGES", "OF", ">FAILURES", "SINCE", "MADE BY"),
        (
            (
                one.id,
                "disabled" if one.disabled_at else "enabled",
                without_query(one.url),
                ", ".join(one.stages) if one.stages else "all",
                "everybody" if one.every_owner else one.owner_id or "operators",
                one.consecutive_failures,
                format_time(one.first_failure_at),
                one.created_by,
            )
            for one in found
        ),
        optional={"FAILURES", "SINCE"},
    )
    for one in found:
        if one.disabled_at:
            remark(f"{one.id} is disabled since {format_time(one.disabled_at)}: {one.disabled_reason}")


@endpoints_app.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="The address that is told.")],
    *,
    stages: Stages = None,
    owner: Owner = None,
    every_owner: Annotated[
        bool, typer.Option("--every-owner", help="Tell of the jobs of all users; not with --owner.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an endpoint and print its secret, which is not shown again."""
    if every_owner and owner is not None:
        raise Refusal(Problem("--every-owner", "must not be given with --owner"))
    made = in_connection(
        lambda conn: endpoints.create_endpoint(
            conn, _acting_for(owner), rules=_rules(), url=url, stages=stages or None, every_owner=every_owner
        )
    )
    _print_secret(made, as_json=as_json)


@endpoints_app.command()
def change(
    endpoint: EndpointId,
    *,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    stages: Stages = None,
    all_stages: Annotated[bool, typer.Option("--all-stages", help="Tell of every stage.")] = False,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Go on with it, or send nothing.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; the history shows it.")] = None,
    as_json: Json = False,
) -> None:
    """Change the address, the stages or the state of an endpoint."""
    if all_stages and stages:
        raise Refusal(Problem("--all-stages", "must not be given with --stage"))
    given: dict[str, Any] = {"url": url, "stages": stages or None, "enabled": enabled}
    changes = {name: value for name, value in given.items() if value is not None}
    if all_stages:
        changes["stages"] = None
    found = in_connection(
        lambda conn: endpoints.change_endpoint(conn, actor(reason), endpoint, changes, rules=_rules())
    )
    if as_json:
        print_json(found)
        return
    print(f"endpoint {found.id} is {'disabled' if found.disabled_at else 'enabled'}, version {found.version}")


@endpoints_app.command()
def rotate(endpoint: EndpointId, overlap: Overlap = "1d", as_json: Json = False) -> None:
    """Replace the secret of an endpoint and print the new one. For a while both sign."""
    made = in_connection(
        lambda conn: endpoints.rotate_secret(conn, actor(), endpoint, rules=_rules(), overlap=parse_age(overlap))
    )
    _print_secret(made, as_json=as_json)


@endpoints_app.command("test")
def send_test(endpoint: EndpointId, as_json: Json = False) -> None:
    """Send a test message to an endpoint: one attempt."""
    delivery = in_connection(lambda conn: endpoints.ping_endpoint(conn, actor(), endpoint))
    if as_json:
        print_json({"delivery_id": delivery})
        return
    remark(f"`gristmill callbacks show {delivery}` says what became of it")
    print(delivery)


@endpoints_app.command()
def remove(endpoint: EndpointId, reason: Annotated[str | None, typer.Option(help="Why.")] = None) -> None:
    """Delete an endpoint. Its messages that wait are cancelled."""
    in_connection(lambda conn: endpoints.delete_endpoint(conn, actor(reason), endpoint))
    print(f"endpoint {endpoint} is removed")


def _all_endpoints() -> list[EndpointView]:
    async def read(conn: Raw) -> list[EndpointView]:
        found, cursor = await endpoints.list_endpoints(conn, limit=200)
        while cursor is not None:
            page, cursor = await endpoints.list_endpoints(conn, limit=200, cursor=cursor)
            found += page
        return found

    return in_connection(read)


def _print_delivery(found: DeliveryView) -> None:
    facts = {
        "delivery": found.id,
        "webhook-id": found.message_id,
        "event": found.event,
        "status": found.status,
        "destination": found.destination,
        "endpoint": found.endpoint_id,
        "job": found.job_id and f"{found.job_id} ({found.job_stage}, {found.job_status}, version {found.job_version})",
        "next attempt": format_time(found.next_attempt_at),
        "error": found.error,
        "made": format_time(found.created_at),
        "ended": format_time(found.completed_at),
    }
    print_table(("FACT", "VALUE"), ((name, value) for name, value in facts.items() if value), keep={"FACT"})
    if found.attempts:
        print()
        print_table(
            ("AT", "ANSWER", ">MS", "ADDRESS", "ERROR", "BODY"),
            (
                (format_time(one.at), one.status, one.milliseconds, one.address, one.error, one.answer)
                for one in found.attempts
            ),
            keep={"AT"},
        )


def _print_secret(made: NewSecret, *, as_json: bool) -> None:
    if as_json:
        print_json({"endpoint": made.endpoint, "secret": made.secret, "previous_until": made.previous_until})
        return
    if made.endpoint:
        remark(f"endpoint {made.endpoint.id}; its secret is not shown again")
    if made.previous_until:
        remark(f"the secret before signs too until {format_time(made.previous_until)}")
    print(made.secret)


def _last_answer(delivery: DeliveryView) -> str:
    if not delivery.attempts:
        return "–"
    last: AttemptView = delivery.attempts[-1]
    return str(last.status) if last.status else last.error or "–"


def _acting_for(owner: UUID | None) -> Actor:
    person = actor()
    return Actor(changed_by=person.changed_by, user_id=owner, context=person.context)


def _rules() -> CallbackRules:
    settings = load()
    return CallbackRules(keyring=Keyring(find_keys(settings)), allow=parse_networks(settings.outbound.allow))
