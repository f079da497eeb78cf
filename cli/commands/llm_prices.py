"""``gristmill llm prices``: what models cost, and who says so."""

from typing import Annotated, Any

import typer

from cli.connection import actor
from cli.llm_routing import with_routing
from cli.llm_values import parse_amount, rate
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_time
from workers.llm.operate import prices

app = typer.Typer(help="List what models cost and who says so; set and remove prices.")

Provider = Annotated[str, typer.Option(help="Name of the provider that is paid.")]
Model = Annotated[str, typer.Option(help="Name of the model; '*' is any of the provider without a price of its own.")]
Dollars = Annotated[str | None, typer.Option(metavar="USD", help="Per million tokens.")]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List what models cost and who says so; set and remove prices."""
    if context.invoked_subcommand is not None:
        return
    found = with_routing(prices.list_prices)
    if as_json:
        print_json(found)
        return
    print_table(
        ("PROVIDER", "MODEL", ">INPUT", ">CACHED", ">OUTPUT", ">BATCH", "SAID BY", "SINCE"),
        (
            (
                one.provider,
                one.model,
                rate(one.input_per_million),
                rate(one.cached_input_per_million) if one.cached_input_per_million is not None else "–",
                rate(one.output_per_million),
                f"{one.batch_discount:.0%}" if one.batch_discount is not None else "–",
                _SAID_BY[one.source],
                format_time(one.updated_at) or "–",
            )
            for one in found
        ),
        keep={"PROVIDER", "MODEL", "SINCE"},
    )
    remark("in US dollars per million tokens; batch is the share of the price that the batch lane pays")
    unknown = sorted({one.provider for one in found if one.source is None})
    if unknown:
        remark(f"nobody knows what some models cost: `gristmill llm prices set --provider {unknown[0]} …` says it")


@app.command("set")
def set_(
    *,
    provider: Provider,
    model: Model,
    input_: Annotated[str, typer.Option("--input", metavar="USD", help="Per million tokens of input.")],
    output: Dollars = None,
    cached: Dollars = None,
    batch: Annotated[str | None, typer.Option(metavar="SHARE", help="Of the price, in the batch lane: 0.5.")] = None,
) -> None:
    """Say what a model costs; calls from now on are priced so. 0 is free, which is not the same as unknown."""
    given: dict[str, Any] = {
        "provider": provider,
        "model": model,
        "input": parse_amount("input", input_),
        "output": parse_amount("output", output),
        "cached_input": parse_amount("cached", cached),
        "batch_discount": parse_amount("batch", batch),
    }
    given = {field: value for field, value in given.items() if value is not None}
    said = with_routing(lambda session, routing: prices.set_price(session, given, routing, actor=actor()))
    print(f"{said.provider}/{said.model} costs {rate(said.input_per_million)} in, {rate(said.output_per_million)} out")


@app.command()
def remove(*, provider: Provider, model: Model) -> None:
    """Unsay a price: what providers publish holds again, if they do."""
    in_session(lambda session: prices.remove_price(session, provider, model, actor=actor()))
    print(f"{provider}/{model} has no price of its own any more")


_SAID_BY = {
    "operator": "operator",
    "published": "published",
    "offline": "costs nothing",
    None: "nobody",
}
