"""A chart in the terminal, in blocks, and as a PNG, where matplotlib is installed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sftspec.conformance.breakit import Chart

COLOURS = ("green", "red", "yellow", "magenta")  # the right one first
WIDTH = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int = WIDTH) -> str:
    """A bar of eighths of a block: bar(0.5, 2) is one full block."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def print_chart(chart: Chart, console: Console) -> None:
    """One line for each point, in the order of the axis, one colour for each series."""
    names = [str(x) for points in chart.series.values() for x, _ in points]
    taken = max(map(len, [chart.x_label, *names])) + max(map(len, chart.series)) + len("-1.23e-15") + 4
    width = max(8, min(WIDTH, console.width - taken))
    largest = max(abs(y) for points in chart.series.values() for _, y in points) or 1.0
    table = Table(title=chart.y_label, title_justify="left", box=None, pad_edge=False, show_header=bool(chart.x_label))
    for header in (chart.x_label, "", "", ""):
        table.add_column(header, no_wrap=True)
    axis = list(dict.fromkeys(x for points in chart.series.values() for x, _ in points))
    for x in axis:
        for (name, points), colour in zip(chart.series.items(), COLOURS, strict=False):
            if x in dict(points):
                y = dict(points)[x]
                label = x if isinstance(x, str) else f"{x:g}"
                table.add_row(label, name, f"[{colour}]{bar(abs(y) / largest, width)}[/]", f"{y:.3g}")
    console.print(table)


def save_png(charts: Sequence[Chart], title: str, path: Path) -> None:
    """The charts side by side. Raises ImportError where matplotlib is missing (`pip install sftspec[plots]`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(charts), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, 60 * len(charts)))
    for number, chart in enumerate(charts, 1):
        axes = figure.add_subplot(1, len(charts), number)
        if chart.is_bars:
            _bars(axes, chart)
            axes.set_xlabel(chart.y_label)
        else:
            axes.set_xlabel(chart.x_label)
            axes.set_ylabel(chart.y_label)
            for (name, points), colour in zip(chart.series.items(), COLOURS, strict=False):
                axes.plot(
                    *zip(*points, strict=True), marker="o", markersize=3, label=name, color=f"tab:{_plain(colour)}"
                )
            axes.set_xscale("log" if chart.log_x else "linear")
        if len(chart.series) > 1:
            axes.legend()
    figure.savefig(path, dpi=110)


def _bars(axes, chart: Chart) -> None:
    names = list(dict.fromkeys(x for points in chart.series.values() for x, _ in points))
    height = 0.8 / len(chart.series)
    for place, ((label, points), colour) in enumerate(zip(chart.series.items(), COLOURS, strict=False)):
        at = [names.index(x) + place * height for x, _ in points]
        axes.barh(at, [y for _, y in points], height, label=label, color=f"tab:{_plain(colour)}")
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(names))], names)
    axes.invert_yaxis()


def _plain(colour: str) -> str:
    """matplotlib's name of a terminal colour."""
    return {"yellow": "olive", "magenta": "purple"}.get(colour, colour)
