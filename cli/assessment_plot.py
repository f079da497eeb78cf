"""Draw how many assessments ended in each hour, as an SVG for any browser. Written as text, without a library."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.assessment.store.reports import HourlyEndings, Statistics

COLOURS = {"completed": "#2da44e", "failed": "#cf222e", "cancelled": "#8c959f"}
BAR, GAP, HEIGHT, LEFT, TOP, BOTTOM = 14, 4, 220, 56, 56, 56
MAX_HOURS = 168
MAX_REASONS = 5
MAX_LABELS = 8
FONT = 'font-family="sans-serif" font-size="12" fill="#57606a"'
LINE_HEIGHT = 18


def draw_svg(statistics: "Statistics") -> str:
    """Return the SVG: a bar per hour (completed, failed, cancelled), and the most frequent failures."""
    hours = _hours(statistics.hours)
    highest = max((sum(counts.values()) for counts in hours.values()), default=0) or 1
    reasons = _reasons(statistics)
    width = max(LEFT + len(hours) * (BAR + GAP) + 24, 640)
    height = TOP + HEIGHT + BOTTOM + LINE_HEIGHT * len(reasons)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {FONT}>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" fill="#1f2328">Assessments that ended, by hour (UTC)</text>',
        *_legend(),
        *_axis(highest, width),
    ]
    label_step = max(1, len(hours) // MAX_LABELS)
    for place, (hour, counts) in enumerate(hours.items()):
        parts += _bars(LEFT + place * (BAR + GAP), counts, highest)
        if place % label_step == 0:
            x = LEFT + place * (BAR + GAP)
            parts.append(f'<text x="{x}" y="{TOP + HEIGHT + 16}">{hour:%d %b %H:%M}</text>')
    for place, reason in enumerate(reasons):
        parts.append(f'<text x="{LEFT}" y="{TOP + HEIGHT + 44 + place * LINE_HEIGHT}">{escape(reason)}</text>')
    return "\n".join((*parts, "</svg>\n"))


def _hours(ended: "Sequence[HourlyEndings]") -> dict[datetime, dict[str, int]]:
    """Return the counts of each of the last hours, also of hours in which nothing ended."""
    if not ended:
        return {}
    last = max(one.hour for one in ended)
    first = max(min(one.hour for one in ended), last - timedelta(hours=MAX_HOURS - 1))
    count = int((last - first) / timedelta(hours=1)) + 1
    hours: dict[datetime, dict[str, int]] = {first + timedelta(hours=n): {} for n in range(count)}
    for one in ended:
        if one.hour in hours:
            hours[one.hour][one.state] = one.count
    return hours


def _legend() -> list[str]:
    return [
        part
        for place, (state, colour) in enumerate(COLOURS.items())
        for part in (
            f'<rect x="{LEFT + place * 110}" y="30" width="10" height="10" fill="{colour}"/>',
            f'<text x="{LEFT + place * 110 + 15}" y="39">{state}</text>',
        )
    ]


def _axis(highest: int, width: int) -> list[str]:
    lines = []
    for count in sorted({0, highest // 2, highest}):
        y = TOP + HEIGHT - HEIGHT * count / highest
        lines.append(f'<line x1="{LEFT}" x2="{width - 16}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{count:,}</text>')
    return lines


def _bars(x: int, counts: dict[str, int], highest: int) -> list[str]:
    parts, bottom = [], float(TOP + HEIGHT)
    for state, colour in COLOURS.items():
        if count := counts.get(state, 0):
            height = HEIGHT * count / highest
            bottom -= height
            title = f"<title>{count:,} {state}</title>"
            parts.append(
                f'<rect x="{x}" y="{bottom:.1f}" width="{BAR}" height="{height:.1f}" fill="{colour}">{title}</rect>'
            )
    return parts


def _reasons(statistics: "Statistics") -> list[str]:
    counts: dict[str, int] = {}
    for failure in statistics.failures:
        counts[failure.reason] = counts.get(failure.reason, 0) + failure.count
    most_frequent = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_REASONS]
    return [f"{count:,} × {reason}" for reason, count in most_frequent]
