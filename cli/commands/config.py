"""``gristmill config``."""

from cli.output import Json, print_json, print_table
from config.settings import list_settings, load


def config(as_json: Json = False) -> None:
    """Show every setting with its value, default and meaning. Secrets are masked."""
    rows = list_settings(load())
    if as_json:
        print_json(rows)
        return
    print_table(
        ("VARIABLE", "VALUE", "DEFAULT", "MEANING"),
        ((row.variable, row.value or "–", row.default or "–", row.meaning) for row in rows),
        keep={"VARIABLE"},
    )
