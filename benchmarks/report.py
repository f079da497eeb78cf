"""Show a run as tables: on the terminal, and as Markdown."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.figures import OURS, Figure, Results
from benchmarks.targets import TARGETS, verdict

FIGURES = ("figure", "Gristmill", "beside", "its figure", "ratio")
TARGETS_HEAD = ("target", "figure", "met")
SMALL = 100
FEW = 10


def rows(results: Results) -> Iterator[tuple[str, ...]]:
    """Yield a row with the columns ``FIGURES`` for every comparison, and for every figure without one."""
    for figure in results.figures:
        title = f"{figure.title}, {figure.unit}"
        ours = figure.median()
        others = [name for name in figure.contenders if name != OURS and figure.samples[name]]
        if ours is None:
            for name in others:
                yield title, "", name, number(figure.median(name)), ""
                title = "…"
        elif not others:
            yield title, number(ours), "", "", ""
        else:
            yield from _compared(figure, title, others)


def _compared(figure: Figure, title: str, others: Sequence[str]) -> Iterator[tuple[str, ...]]:
    ours = number(figure.median())
    for name in others:
        ratio = figure.ratio(name)
        yield title, ours, name, number(figure.median(name)), "" if ratio is None else f"{ratio:.2f} ×"
        title, ours = "…", ""


def number(value: float | None) -> str:
    """Return the number with three significant digits and group separators."""
    if value is None:
        return ""
    if abs(value) >= SMALL:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= FEW else f"{value:.3g}"


def judged(results: Results) -> list[tuple[str, str, str]]:
    """Return a row with the columns ``TARGETS_HEAD`` for every target."""
    return [(target.says, *verdict(target, results)) for target in TARGETS]


def show(results: Results, console: Console) -> None:
    """Print both tables."""
    for head, body, title in (
        (FIGURES, list(rows(results)), "medians of interleaved rounds"),
        (TARGETS_HEAD, judged(results), "targets"),
    ):
        table = Table(*head, title=title, title_justify="left")
        for row in body:
            table.add_row(*row)
        console.print(table)
    for part, reason in results.failures.items():
        console.print(f"{part} failed: {reason}", markup=False)


def markdown(results: Results) -> str:
    """Return the run as Markdown: the machine, the figures and the targets."""
    return "\n".join(
        [
            surroundings(results),
            "",
            *_table(FIGURES, rows(results)),
            "",
            *_table(TARGETS_HEAD, judged(results)),
            *(f"\n{part} failed: {reason}" for part, reason in results.failures.items()),
        ]
    )


def surroundings(results: Results) -> str:
    """Return one paragraph about the machine and the run."""
    facts = results.environment
    load = ", ".join(f"{load:g}" for load in facts["load_at_start"])
    unoptimised = "" if facts["optimised_python"] else ", built without optimisations"
    return (
        f"{facts['at'][:10]}: {facts['cores']} cores ({facts['cpu']}), load {load} at the start; "
        f"Python {facts['python'].split()[0]}{unoptimised}, PostgreSQL {facts['postgres']} (fsync {facts['fsync']}), "
        f"Valkey {facts['valkey']}; everything on one machine, {results.options['repeat']} interleaved rounds."
    )


def _table(head: Sequence[str], body: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(line)} |" for line in lines]
