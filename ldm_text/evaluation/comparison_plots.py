"""Plots of a comparison: what quality costs, and what it is paid for with in variety."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ldm_text.evaluation.comparison_table import Row, mean_of
from ldm_text.evaluation.sweep_options import describe_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#101112"  # the page replaces this colour by that of its text
# Colours that are told apart on white and on black, also by most who do not see all colours.
COLOURS = (
    "#2f7fd1",
    "#e0782f",
    "#2ea37a",
    "#c2559d",
    "#9a8419",
    "#7c6fd6",
    "#d14b4b",
    "#2aa0b8",
    "#8a6a54",
    "#7d8a2e",
    "#6b7f94",
)
MARKERS = "osD^vPX<>p"  # one fewer than colours: pairs come back after 110 generators
LINES = ("solid", "dashed", "dotted", "dashdot")  # of one generator
CONTROL_LINES = ("dashed", "dotted", "dashdot", (0, (1, 3)))
CONTROL_MARKERS = "*PXD"

LABELS = {
    "bleu": "BLEU",
    "mauve": "MAUVE",
    "generative_perplexity": "generative perplexity",
    "unigram_entropy": "unigram entropy (nats)",
    "network_calls": "network calls for one text",
    "seconds_per_text": "seconds for one text, batch 1",
    "saturated_seconds_per_text": "seconds for one text, saturated batch",
}
QUALITY = ("bleu", "mauve", "generative_perplexity")
COSTS = ("network_calls", "seconds_per_text", "saturated_seconds_per_text")


@dataclass(frozen=True)
class Plot:
    """A plot, and what its points are.

    Attributes:
        name: Name for files and links.
        title: What is drawn.
        figure: The drawing, in ``INK``; artists named ``point-N`` are those of ``points[N]``.
        points: What to say about each point.
    """

    name: str
    title: str
    figure: "Figure"
    points: list[str]


def draw_plots(rows: Sequence[Row]) -> list[Plot]:
    """Draw all plots for which there are figures.

    They are quality against each cost, for the first two measures of quality that there are, and
    perplexity against entropy.

    Args:
        rows: Rows of the table.
    """
    generators = [row for row in rows if row["kind"] == "generator"]
    found = [name for name in QUALITY if any(name in row["figures"] for row in generators)]
    pairs = [(cost, quality) for quality in found[:2] for cost in COSTS]
    pairs.append(("unigram_entropy", "generative_perplexity"))
    return [
        draw_plot(rows, *pair)
        for pair in pairs
        if any(set(pair) <= row["figures"].keys() for row in generators)
    ]


@contextmanager
def page_axes(name: str) -> Iterator[tuple["Figure", "Axes"]]:
    """Make an empty drawing in the style of our pages, to be filled within the context.

    Args:
        name: Name of the plot.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with rc_context(dict.fromkeys(ink, INK) | {"svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        yield figure, axes


def draw_plot(rows: Sequence[Row], x: str, y: str) -> Plot:
    """Draw one figure of the table against another, a colour for each generator.

    Settings that differ in the number of steps alone are joined by a line; against entropy, those
    that have the number of steps in common, in the order of the table. Other texts
    than those of generators have no cost: they are horizontal lines, or marks where the abscissa is
    a property of texts.
    """
    is_frontier = x not in COSTS
    name = f"{y}-against-{x}".replace("_", "-")
    with page_axes(name) as (figure, axes):
        set_scale(axes, rows, x, y)
        drawn = [
            row for row in rows if row["kind"] == "generator" and {x, y} <= row["figures"].keys()
        ]
        points = draw_generators(axes, drawn, x, y, is_frontier)
        points += draw_controls(axes, rows, x, y, is_frontier, len(points))
        axes.set_xlabel(LABELS[x])
        axes.set_ylabel(LABELS[y])
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    title = f"{LABELS[y]} against {LABELS[x]}"
    return Plot(name, title[0].upper() + title[1:], figure, points)


def draw_generators(
    axes: "Axes", rows: Sequence[Row], x: str, y: str, is_frontier: bool
) -> list[str]:
    """Draw the points of all generators, with their standard errors, and return what they are."""
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["name"]][line_of(row, is_frontier)].append(row)
    points: list[str] = []
    for number, (name, lines) in enumerate(groups.items()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)]}
        marker = MARKERS[number % len(MARKERS)]
        axes.plot([], [], marker=marker, markersize=5, label=name, **style)
        for place, line in enumerate(lines.values()):
            if not is_frontier:  # there they stay in the order of the temperatures
                line.sort(key=lambda row: row["figures"][x]["mean"])
            kind = LINES[place % len(LINES)]
            axes.plot(*means(line, x, y), linestyle=kind, linewidth=1.2, alpha=0.6, **style)
            for row in line:
                draw_point(axes, row, x, y, len(points), marker=marker, **style)
                points.append(describe_point(row, x, y))
    return points


def draw_controls(
    axes: "Axes", rows: Sequence[Row], x: str, y: str, is_frontier: bool, num_points: int
) -> list[str]:
    """Draw the reference text and the controls; return what the points among them are."""
    points = []
    others = [row for row in rows if row["kind"] != "generator" and y in row["figures"]]
    for row, line, marker in zip(others, CONTROL_LINES, CONTROL_MARKERS, strict=False):
        height = row["figures"][y]["mean"]
        if not is_frontier:
            axes.axhline(
                height, color=INK, alpha=0.7, linewidth=1, linestyle=line, label=row["name"]
            )
            continue
        axes.plot([], [], color=INK, linestyle="", marker=marker, label=row["name"])
        draw_point(
            axes, row, x, y, num_points + len(points), marker=marker, color=INK, markersize=9
        )
        points.append(describe_point(row, x, y))
    return points


def line_of(row: Row, is_frontier: bool) -> str:
    """Name the line that a setting belongs to."""
    if is_frontier:
        return str(row["num_inference_steps"])
    return describe_settings({**row, "num_inference_steps": None})


def means(rows: Sequence[Row], *names: str) -> list[list[float]]:
    """Return the means of some figures of rows, a list a figure."""
    return [[row["figures"][name]["mean"] for row in rows] for name in names]


def draw_point(axes: "Axes", row: Row, x: str, y: str, number: int, **style: Any) -> None:
    """Draw one point with its standard errors."""
    error = {axis: row["figures"][name]["standard_error"] for axis, name in (("x", x), ("y", y))}
    options: dict[str, Any] = {"markersize": 5} | style
    container = axes.errorbar(
        *means([row], x, y),
        xerr=error["x"],
        yerr=error["y"],
        linestyle="",
        elinewidth=1,
        capsize=2,
        **options,
    )
    container.lines[0].set_gid(f"point-{number}")


def describe_point(row: Row, x: str, y: str) -> str:
    """Say what a point is and where it stands."""
    settings = describe_settings(row)
    where = ", ".join(f"{LABELS[name]} {mean_of(row, name):.4g}" for name in (x, y))
    return f"{row['name']}{', ' if settings else ''}{settings}: {where}"


def set_scale(axes: "Axes", rows: Sequence[Row], x: str, y: str) -> None:
    """Give costs and perplexities a logarithmic axis."""
    for axis, name, set_axis in (
        (axes.xaxis, x, axes.set_xscale),
        (axes.yaxis, y, axes.set_yscale),
    ):
        values = [value for row in rows if (value := mean_of(row, name)) is not None]
        if name in (*COSTS, "generative_perplexity") and min(values) > 0:
            set_axis("log")
            set_plain_ticks(axis, max(values) / min(values))


def set_plain_ticks(axis: "Axis", span: float) -> None:
    """Label a logarithmic axis by plain numbers, fewer of them on a long one."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 200 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
