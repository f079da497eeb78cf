"""The table of routes in docs/http.md: ``python -m tests.support.http_reference`` writes it anew."""

from collections.abc import Iterator
from typing import Any

from gateway.app import create_app
from tests.support.gateway import make_resources
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "http.md"
BEGIN, END = "<!-- routes -->", "<!-- end of routes -->"
_NEEDS = "Needs the scope `"


def table_of(document: dict[str, Any]) -> str:
    """Return the routes of a description as tables, one for each tag."""
    tags: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scope = operation.get("description", "").partition(_NEEDS)[2].partition("`")[0]
            row = f"| `{method.upper()} {path}` | {operation['summary']} | {f'`{scope}`' if scope else 'none'} |"
            tags.setdefault(operation["tags"][0], []).append(row)
    return "\n\n".join("\n".join(_section(tag, rows)) for tag, rows in sorted(tags.items()))


def _section(tag: str, rows: list[str]) -> Iterator[str]:
    yield f"### {tag.capitalize()}"
    yield ""
    yield "| route | does | scope |"
    yield "|---|---|---|"
    yield from rows


def described() -> str:
    """Return the table of this release's gateway."""
    return table_of(create_app(make_resources("postgresql://nowhere/x")).openapi())


def with_table(page: str, table: str) -> str:
    """Return ``page`` with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), described()))
