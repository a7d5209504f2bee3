"""The ablations as a picture: how far each row is from the base, with errors over the seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation_rows import Row
from ablation_table import AGAINST_BASE, TEXT_FIGURES, means_by_row
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ldm_text.evaluation.measured_tables import Figure as Mean

LOWER_IS_BETTER = ("energy_distance",)


def plot_differences(
    rows: Sequence[Row], lines: Sequence[dict[str, Any]], budget: float, output: Path
) -> None:
    """Draw the difference of the main figure from the base, a line a row.

    At the first number of steps that was measured. A row of one seed is a hollow mark without an
    error: it tells little. What is far off all others is an arrow with its value.

    Args:
        rows: Rows in their order, from top to bottom; those not measured are left out.
        lines: Results, later ones in place of earlier ones of the same row and seed.
        budget: Results of other budgets are left out.
        output: PNG file to write.

    Raises:
        ValueError: If no row stands beside a base.
    """
    columns = means_by_row(rows, lines, budget)
    titles = list(dict.fromkeys(title for own in columns.values() for title in own))
    titles = [title for title in titles if title.endswith(AGAINST_BASE)]
    drawn = [row for row in rows if titles and titles[0] in columns.get(row.name, {})]
    if not drawn:
        raise ValueError("There is no result of a row beside one of the base.")
    figure = Figure(figsize=(10, 1.2 + 0.21 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    differences = [columns[row.name][titles[0]] for row in drawn]
    limit = axis_limit([each.mean for each in differences])
    for place, each in enumerate(differences):
        _draw(axes, place, each, limit)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(drawn)), [f"{row.factor}: {row.setting}" for row in drawn])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlim(-limit * 1.1, limit * 1.1)
    axes.grid(alpha=0.3)
    name = next(iter(TEXT_FIGURES[lines[0]["data"]]))
    better = "lower is better" if name in LOWER_IS_BETTER else "higher is better"
    axes.set_xlabel(f"{titles[0]} ({better})")
    marks = [
        Line2D([], [], marker="o", label="difference of the seeds' means and its standard error"),
        Line2D([], [], marker="o", linestyle="", markerfacecolor="white", label="one seed"),
    ]
    figure.legend(handles=marks, fontsize=8, ncols=2, loc="outside upper right")
    figure.savefig(output, dpi=110)


def axis_limit(differences: Sequence[float]) -> float:
    """Find how far the axis reaches: thrice what four of five rows stay within, if any is beyond.

    Args:
        differences: One of each row.

    Returns:
        The limit, above 0.
    """
    sizes = sorted(abs(value) for value in differences)
    usual = 3 * sizes[4 * (len(sizes) - 1) // 5]
    return min(usual or sizes[-1], sizes[-1]) or 1.0


def _draw(axes: Any, place: int, difference: Mean, limit: float) -> None:
    """Draw one row: a mark with its error, or an arrow at the end of the axis."""
    mean, color = difference.mean, "tab:blue"
    face = "white" if difference.standard_error is None else color
    if abs(mean) <= limit:
        axes.errorbar(
            mean, place, xerr=difference.standard_error, fmt="o", ms=5, color=color, mfc=face
        )
        return
    side = 1 if mean > 0 else -1
    axes.plot(side * limit, place, ">" if side > 0 else "<", color=color, mfc=face)
    axes.annotate(
        f"{mean:.2g}",
        (side * limit, place),
        xytext=(-8 * side, 0),
        textcoords="offset points",
        ha="right" if side > 0 else "left",
        va="center",
        fontsize=8,
    )
