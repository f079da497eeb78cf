"""``gristmill doctor``."""

import asyncio
from typing import Annotated

import typer
from rich.text import Text

from cli.doctor.check import Check
from cli.doctor.examine import run_checks
from cli.output import Json, make_console, print_json, remark
from config.settings import load
from workers.runtime.refusals import printable

_MARKS = {
    "ok": ("✓", "green"),
    "unknown": ("?", "yellow"),
    "unchecked": ("–", "dim"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only Postgres, Redis and the schema. Prints nothing if all is well.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check every dependency; say how to repair what fails. Exit code 1 if a check fails."""
    checks = asyncio.run(run_checks(load(), quick=quick))
    failed = [check for check in checks if check.state == "failed"]
    if as_json:
        print_json({"ok": not failed, "checks": checks})
    elif quick:
        for check in failed:
            remark(_safe_line(f"gristmill: {check.name}: {check.found}; {check.remedy}"))
    else:
        _print(checks)
        if failed:
            remark(f"gristmill: {len(failed)} of {len(checks)} checks failed: {', '.join(one.name for one in failed)}")
    return 1 if failed else 0


def _print(checks: list[Check]) -> None:
    console = make_console()
    for check in checks:
        mark, colour = _MARKS[check.state]
        line = Text.assemble((mark, colour), f" {check.name:<12} {_safe_line(check.found)}")
        console.print(line)
        if check.remedy:
            console.print(
                Text(f"  {'':<12} → {_safe_line(check.remedy)}", style="" if check.state == "failed" else "dim")
            )


def _safe_line(text: str) -> str:
    """Return text of rows or servers on one line, without control characters."""
    return printable(" ".join(text.split()))
