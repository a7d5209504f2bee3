"""The page of a diagnosis: one HTML file that needs nothing else, with plots and tables."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ldm_text.evaluation.comparison_plots import Plot
from ldm_text.evaluation.page import (
    about_html,
    cell,
    number,
    plot_html,
    read_template,
    sortable,
    write_document,
)


def write_diagnosis(path: Path, report: dict[str, Any], plots: Sequence[Plot]) -> None:
    """Write the page, all of it or nothing.

    Args:
        path: HTML file to write.
        report: What ``ldm-text diagnose`` writes as JSON.
        plots: Its plots.
    """
    shift = report["noise_shift"]
    lines = ["latents", "cross-entropy", "token accuracy"]
    body = read_template("diagnosis_body.html").substitute(
        deviation=number(shift["deviation"]) or "unknown size",
        from_predictions=number(shift["recommended_from_predictions"])
        or "none, without a denoiser",
        config_line=escape(shift["config_line"] or "none: noise is read as well as latents"),
        plots="\n".join(map(plot_html, plots)),
        interventions=sortable(
            lines,
            1,
            [row_html(name, *row.values()) for name, row in report["interventions"].items()],
        ),
        sampled=sampled_html(report["decoder"].get("sampled")),
        midpoints=figures_html(report["midpoints"]),
        examples=examples_html(report["midpoints"]["examples"]),
        spectrum=figures_html(report["spectrum"]),
        about=about_html(report["about"]),
    )
    write_document(path, "Diagnosis of a latent pipeline", body)


def row_html(name: str, *values: float | None) -> str:
    """Write a row of a table: a name and figures."""
    return cell(escape(name), is_word=True) + "".join(
        cell(number(value), "" if value is None else value) for value in values
    )


def figures_html(figures: Mapping[str, Any]) -> str:
    """Write a table of single figures; what is no number is left out."""
    rows = [
        row_html(name.replace("_", " "), value)
        for name, value in figures.items()
        if value is None or isinstance(value, int | float)
    ]
    return sortable(["figure", "value"], 1, rows)


def sampled_html(figures: Mapping[str, Any] | None) -> str:
    """Write what was measured on sampled latents, if there are any."""
    return "<p>An autoencoder alone has none.</p>" if figures is None else figures_html(figures)


def examples_html(examples: Sequence[Mapping[str, str]]) -> str:
    """Write texts with the midpoints between them."""
    names = ("text", "midpoint", "neighbour")
    heads = "".join(f"<th>{name}</th>" for name in names)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(example[name])}</td>" for name in names) + "</tr>"
        for example in examples
    )
    return (
        f"<details open><summary>Examples</summary><table><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></details>"
    )
