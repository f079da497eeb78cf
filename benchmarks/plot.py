"""Draw pictures of a run for the documentation. Needs matplotlib (the project's ``bench`` group)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import OURS, Figure, Results
from benchmarks.report import number

OUR_COLOUR, OTHER_COLOUR = "#1f6feb", "#9aa4b2"
WIDTH, HEIGHT_PER_BAR, FRAME = 8.0, 0.42, 1.5


def draw(results: Results, into: Path) -> list[Path]:
    """Draw every picture for which the run has figures; return the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120})
    into.mkdir(parents=True, exist_ok=True)
    return [path for picture in PICTURES if (path := picture(results, into)) is not None]


def _bars(results: Results, into: Path, name: str, *, title: str | None = None) -> Path | None:
    """Draw the contenders of one figure as bars, the best one on top, with the range of their rounds."""
    figure = results.get(name)
    if figure is None or not figure.samples.get(OURS):
        return None
    from matplotlib import pyplot as plt

    ranked = sorted((who for who in figure.contenders if figure.samples[who]), key=lambda who: figure.median(who) or 0)
    middles = [figure.median(who) or 0.0 for who in ranked]
    spread = [
        [middle - min(figure.samples[who]) for who, middle in zip(ranked, middles, strict=True)],
        [max(figure.samples[who]) - middle for who, middle in zip(ranked, middles, strict=True)],
    ]
    drawing, axes = plt.subplots(figsize=(WIDTH, FRAME + HEIGHT_PER_BAR * len(ranked)), layout="constrained")
    bars = axes.barh(
        ["Gristmill" if who == OURS else who for who in ranked],
        middles,
        xerr=spread,
        color=[OUR_COLOUR if who == OURS else OTHER_COLOUR for who in ranked],
        error_kw={"ecolor": "#57606a", "capsize": 3, "lw": 1},
    )
    axes.bar_label(bars, labels=[number(middle) for middle in middles], padding=8)
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.set_xlabel(figure.unit)
    axes.set_title(title or figure.title, loc="left")
    return _saved(drawing, into / f"{name}.png")


def _latency(results: Results, into: Path) -> Path | None:
    """Draw the percentiles of each rate for all contenders."""
    rates = [rate for rate in (20, 200) if results.get(f"latency_{rate}_p50")]
    if not rates:
        return None
    from matplotlib import pyplot as plt

    drawing, all_axes = plt.subplots(1, len(rates), figsize=(WIDTH, 3.6), squeeze=False, layout="constrained")
    for axes, rate in zip(all_axes[0], rates, strict=True):
        figures = {name: results.get(f"latency_{rate}_{name}") for name in ("p50", "p95", "p99")}
        whole = {name: figure for name, figure in figures.items() if figure is not None}
        _grouped(axes, whole)
        axes.set_title(f"commit to handler at {rate} jobs/s", loc="left")
    return _saved(drawing, into / "latency.png")


def _grouped(axes: Any, figures: dict[str, Figure]) -> None:
    contenders = next(iter(figures.values())).contenders
    width = 0.8 / len(contenders)
    for position, who in enumerate(contenders):
        at = [index + (position - (len(contenders) - 1) / 2) * width for index in range(len(figures))]
        shade = OUR_COLOUR if who == OURS else ("#9aa4b2", "#d0a215", "#57606a")[(position - 1) % 3]
        heights = [figure.median(who) or 0.0 for figure in figures.values()]
        bars = axes.bar(at, heights, width, color=shade, label="Gristmill" if who == OURS else who)
        axes.bar_label(bars, labels=[number(height) for height in heights], padding=2, fontsize=8)
    axes.set_xticks(range(len(figures)), list(figures))
    axes.set_ylabel("ms")
    axes.margins(y=0.15)
    axes.legend(frameon=False)


def _backlog(results: Results, into: Path) -> Path | None:
    """Draw drain rate and dispatch time over the depth of the backlog."""
    rate, pick = results.get("backlog_rate"), results.get("backlog_pick")
    if rate is None or pick is None:
        return None
    from matplotlib import pyplot as plt

    drawing, (left, right) = plt.subplots(1, 2, figsize=(WIDTH + 2, 3.6), layout="constrained")
    select = results.get("backlog_select")
    for axes, lines in ((left, [(rate, "drain")]), (right, [(pick, "with marking 512"), (select, "select part")])):
        for figure, label in lines:
            if figure is not None:
                depths = {who: float(who.removesuffix(" behind").replace(",", "")) for who in _depths(figure)}
                axes.plot(list(depths.values()), [figure.median(who) for who in depths], marker="o", label=label)
        axes.set_xscale("log")
        axes.margins(y=0.2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("jobs waiting behind")
        axes.grid(alpha=0.3)
    right.legend(frameon=False)
    left.set_ylabel(rate.unit)
    left.set_title("drain rate over the backlog", loc="left")
    right.set_ylabel("ms")
    right.set_title("dispatch tick over the backlog", loc="left")
    return _saved(drawing, into / "backlog.png")


def _depths(figure: Figure) -> list[str]:
    return [who for who in figure.contenders if who.endswith(" behind")]


def _saved(drawing: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    drawing.savefig(path, metadata={"Software": None})
    plt.close(drawing)
    return path


PICTURES: tuple[Callable[[Results, Path], Path | None], ...] = (
    lambda results, into: _bars(results, into, "drain"),
    lambda results, into: _bars(results, into, "drain_cpu_all", title="processor time per no-op job, all processes"),
    lambda results, into: _bars(results, into, "calls_http"),
    lambda results, into: _bars(results, into, "enqueue_bulk"),
    lambda results, into: _bars(results, into, "watched"),
    _latency,
    _backlog,
)
