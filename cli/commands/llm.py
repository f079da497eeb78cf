"""``gristmill llm``: its commands, each imported when it runs."""

import typer

from cli.lazy import CommandEntry, lazy_group

SUMMARY = "See and control the calls of models: providers, routes, limits, budgets, prices, spend."
COMMANDS = (
    CommandEntry("providers", "llm_providers:app", None, "List, add, change, pause, resume and remove providers."),
    CommandEntry(
        "routes", "llm_routes:app", None, "List routes; add, bind, unbind and remove them, and set their steps."
    ),
    CommandEntry(
        "limits", "llm_limits:app", None, "List limits with what is used of them and when there is room; set, remove."
    ),
    CommandEntry(
        "budgets", "llm_budgets:app", None, "List budgets with what is reserved and spent of them; set, remove."
    ),
    CommandEntry("prices", "llm_prices:app", None, "List what models cost and who says so; set and remove prices."),
    CommandEntry(
        "spend", "llm_spend:spend", None, "Sum up what calls used and cost: by model, stage, day, project and more."
    ),
    CommandEntry("calls", "llm_calls:app", None, "List the calls in the ledger, newest first, or show one."),
    CommandEntry(
        "resume", "llm_providers:resume", None, "Ask a paused provider again, or all; their jobs go on at once."
    ),
)

app = typer.Typer(cls=lazy_group(COMMANDS), help=SUMMARY, no_args_is_help=True)
app.callback()(lambda: None)
