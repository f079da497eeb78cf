"""Draw what calls cost by day as an SVG that any browser shows: a bar a day, each model a colour. Pure text."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING

from cli.llm_values import dollars

if TYPE_CHECKING:
    from workers.llm.ledger.spend import Spend, SpendRow

    Measure = Callable[[SpendRow], Decimal]

COLOURS = ("#0969da", "#2da44e", "#bf8700", "#8250df", "#cf222e", "#1b7c83", "#bc4c00", "#6e7781")
BAR, GAP, HEIGHT, LEFT, TOP, BOTTOM, LINE = 14, 4, 220, 80, 72, 40, 16
DAYS_SHOWN = 92
LABELS = 8
FONT = 'font-family="sans-serif" font-size="12" fill="#57606a"'


def svg(spend: "Spend", zone: str) -> str:
    """Return the picture of sums by day and model: money, or tokens if nothing costs any.

    The models that cost most have a colour each, all others one together.
    """
    measured = _cost if spend.total.usd else _tokens
    days = _days(spend.rows, measured)
    models = _models(spend.rows, measured)
    highest = max((sum(parts.values(), Decimal(0)) for parts in days.values()), default=Decimal(0)) or Decimal(1)
    width = max(LEFT + len(days) * (BAR + GAP) + 24, 640)
    height = TOP + HEIGHT + BOTTOM
    title = f"{'Cost' if spend.total.usd else 'Tokens'} of model calls by day ({zone})"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {FONT}>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" fill="#1f2328">{escape(title)}</text>',
        *_legend(models),
        *_axis(highest, width, money=bool(spend.total.usd)),
    ]
    every = max(1, len(days) // LABELS)
    for place, (day, counts) in enumerate(days.items()):
        x = LEFT + place * (BAR + GAP)
        parts += _bars(x, day, counts, models, highest)
        if place % every == 0:
            parts.append(f'<text x="{x}" y="{TOP + HEIGHT + LINE}">{day:%d %b}</text>')
    return "\n".join((*parts, "</svg>\n"))


def _cost(row: "SpendRow") -> Decimal:
    return row.usd


def _tokens(row: "SpendRow") -> Decimal:
    return Decimal(row.input_tokens + row.output_tokens)


def _days(rows: "Sequence[SpendRow]", measured: "Measure") -> dict[datetime, dict[str, Decimal]]:
    """Return what each of the last days has by model, also the days without a call."""
    if not rows:
        return {}
    last = max(row.by["day"] for row in rows)
    first = max(min(row.by["day"] for row in rows), last - timedelta(days=DAYS_SHOWN - 1))
    days: dict[datetime, dict[str, Decimal]] = {}
    by_date = {}
    for number in range((last.date() - first.date()).days + 1):
        day = first + timedelta(days=number)
        days[day] = {}
        by_date[day.date()] = day
    for row in rows:
        if (day_of := by_date.get(row.by["day"].date())) is not None:
            model = row.by["model"]
            days[day_of][model] = days[day_of].get(model, Decimal(0)) + measured(row)
    return days


def _models(rows: "Sequence[SpendRow]", measured: "Measure") -> dict[str, str]:
    """Return the colour of each model; those that cost least share the last one."""
    sums: dict[str, Decimal] = {}
    for row in rows:
        sums[row.by["model"]] = sums.get(row.by["model"], Decimal(0)) + measured(row)
    ordered = sorted(sums, key=lambda model: (-sums[model], model))
    return {model: COLOURS[min(place, len(COLOURS) - 1)] for place, model in enumerate(ordered)}


def _legend(models: dict[str, str]) -> list[str]:
    shown = list(models.items())[: len(COLOURS)]
    parts, x = [], LEFT
    for place, (model, colour) in enumerate(shown):
        name = "others" if place == len(COLOURS) - 1 and len(models) > len(COLOURS) else model
        parts.append(f'<rect x="{x}" y="34" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="43">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return parts


def _axis(highest: Decimal, width: int, *, money: bool) -> list[str]:
    lines = []
    for amount in (Decimal(0), highest / 2, highest):
        y = TOP + HEIGHT - float(HEIGHT * amount / highest)
        told = dollars(amount) if money else f"{amount:,.0f}"
        lines.append(f'<line x1="{LEFT}" x2="{width - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(told)}</text>')
    return lines


def _bars(x: int, day: datetime, parts: dict[str, Decimal], models: dict[str, str], highest: Decimal) -> list[str]:
    drawn, bottom = [], float(TOP + HEIGHT)
    for model, colour in models.items():
        if amount := parts.get(model, Decimal(0)):
            tall = float(HEIGHT * amount / highest)
            bottom -= tall
            title = f"<title>{day:%Y-%m-%d} {escape(model)} {amount:f}</title>"
            drawn.append(
                f'<rect x="{x}" y="{bottom:.1f}" width="{BAR}" height="{tall:.1f}" fill="{colour}">{title}</rect>'
            )
    return drawn
