"""``gristmill llm budgets``: how much may be spent, what is reserved and spent of it, what happens then."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from cli.assessment_view import score_bar
from cli.connection import actor
from cli.llm_values import dollars, parse_amount, parse_scope, project_names
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_count, format_time
from workers.llm.operate import budgets
from workers.llm.operate.budgets import BudgetView
from workers.runtime.refusals import Problem, Refusal, printable, quoted

app = typer.Typer(help="List budgets with what is reserved and spent of them; set, remove.")


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List budgets with what is reserved and spent of them; set, remove."""
    if context.invoked_subcommand is not None:
        return
    found = in_session(budgets.list_budgets)
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    else:
        remark("no budgets; `gristmill llm budgets set` makes one")


@app.command("set")
def set_(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Made of scope and window if not given.")] = None,
    *,
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="all, stage:S, project:NAME, tenant:ID or profile:ID: whose calls.")
    ] = "all",
    window: Annotated[str, typer.Option(help="day, week, month or total.")] = "month",
    zone: Annotated[str, typer.Option(help="IANA time zone in which windows begin.")] = "UTC",
    usd: Annotated[str | None, typer.Option(metavar="USD", help="Money that may be spent in each window.")] = None,
    tokens: Annotated[int | None, typer.Option(metavar="N", min=0, help="Tokens that may be used in each.")] = None,
    then: Annotated[str, typer.Option(help="When it is spent: stop, slow, batch or warn.")] = "stop",
    warn_at: Annotated[str, typer.Option(metavar="SHARE,…", help="Shares of it that are told once a window.")] = "0.8",
    as_json: Json = False,
) -> None:
    """Set a budget, whole: it holds from the next call on. Its present window counts what is spent already."""
    given: dict[str, Any] = {
        "name": name or f"{scope} {'in total' if window == 'total' else f'per {window}'}",
        **parse_scope(scope),
        "window": window,
        "zone": zone,
        "usd": parse_amount("usd", usd),
        "tokens": tokens,
        "then": then,
        "warn_at": _shares(warn_at),
    }
    made = in_session(lambda session: budgets.set_budget(session, given, actor=actor()))
    if as_json:
        print_json(made)
    else:
        print(printable(f"{made.name} is set: {_amount(made)}, {_spent(made)} gone so far"))


@app.command()
def remove(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Delete a budget; calls that wait for it go on at once."""
    in_session(lambda session: budgets.remove_budget(session, name, actor=actor()))
    print(printable(f"{name} is removed"))


def _print(found: list[BudgetView]) -> None:
    names = project_names() if any(one.scope == "project" for one in found) else {}
    named = {str(id_): name for id_, name in names.items()}
    print_table(
        ("BUDGET", "FOR", "AMOUNT", "SPENT", "RESERVED", "GONE", "STATE", "THEN", "UNTIL"),
        (
            (
                one.name,
                _scope(one, named),
                _amount(one),
                _spent(one),
                _of(one, one.reserved_usd, one.reserved_tokens),
                f"{score_bar(float(min(one.share, Decimal(1))))} {one.share:.0%}",
                one.state,
                one.then,
                f"{format_time(one.window_end)}" if one.window_end else "–",
            )
            for one in found
        ),
        keep={"BUDGET", "GONE", "UNTIL"},
    )
    for one in found:
        if one.unpriced_calls:
            told = format_count(one.unpriced_calls, "call")
            remark(f"{one.name}: {told} with an unknown price are in no amount; `gristmill llm prices` shows which")


def _scope(one: BudgetView, named: dict[str, str]) -> str:
    return "all calls" if one.scope_value is None else f"{one.scope} {named.get(one.scope_value, one.scope_value)}"


def _amount(one: BudgetView) -> str:
    amounts = [dollars(one.usd)] if one.usd is not None else []
    amounts += [f"{one.tokens:,} tokens"] if one.tokens is not None else []
    return f"{' and '.join(amounts)} {'in total' if one.window == 'total' else f'a {one.window} ({one.zone})'}"


def _spent(one: BudgetView) -> str:
    return _of(one, one.spent_usd, one.spent_tokens)


def _of(one: BudgetView, usd: Decimal, tokens: int) -> str:
    told = [dollars(usd)] if one.usd is not None else []
    return ", ".join([*told, *([f"{tokens:,} tokens"] if one.tokens is not None else [])])


def _shares(text: str) -> list[Decimal]:
    try:
        return [Decimal(word.strip()) for word in text.split(",") if word.strip()]
    except InvalidOperation:
        raise Refusal(Problem("warn-at", "must be shares with commas, such as 0.5,0.8", quoted(text))) from None
