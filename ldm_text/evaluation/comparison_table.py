"""The table of a comparison: rows with mean and standard error, as JSON and CSV.

A row is a dictionary: ``kind`` (reference, control or generator), ``name``, the settings of a
``SweepPoint``, ``figures`` by name with ``mean``, ``standard_error`` over seeds (``None`` for one
seed) and ``values``, and ``examples``, texts of the first seed.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ldm_text.component_files import read_json
from ldm_text.evaluation.likelihood import standard_error
from ldm_text.evaluation.sweep_options import describe_settings
from ldm_text.whole_lines import WholeLinesFile

Row = dict[str, Any]
NO_SETTINGS = {"num_inference_steps": None, "guidance_scale": None, "sampling": {}}


def average(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Average figures over seeds.

    Args:
        figures: Those of each seed; one that a seed lacks is averaged over the others.
    """
    averaged = {}
    for name in dict.fromkeys(name for one in figures for name in one):
        values = [float(one[name]) for one in figures if name in one]
        averaged[name] = {
            "mean": float(np.mean(values)),
            "standard_error": standard_error(np.array(values)),
            "values": values,
        }
    return averaged


def mean_of(row: Row, name: str) -> float | None:
    """Return the mean of a figure of a row, if it has the figure."""
    return row["figures"].get(name, {}).get("mean")


def digest(*parts: Any) -> str:
    """Name what a row depends on, so that a later run can tell whether it would be the same."""
    content = json.dumps(parts, sort_keys=True, default=str)
    return sha256(content.encode()).hexdigest()[:16]


def read_known(path: Path) -> dict[str, dict[str, Any]]:
    """Read what an earlier run has measured, by digest; nothing if there is no file.

    Raises:
        ValueError: If the file is no table of a comparison.
    """
    if not path.exists():
        return {}
    table = read_json(path)
    entries = [*table.get("generators", []), *table.get("rows", [])]
    if not all(isinstance(entry, dict) and "digest" in entry for entry in entries) or not entries:
        raise ValueError(f"`{path}` is no table of `ldm-text compare`; name another `--output`.")
    return {entry["digest"]: entry for entry in entries}


def write_json(path: Path, table: dict[str, Any]) -> None:
    """Write the table, all of it or nothing."""
    with WholeLinesFile(path) as file:
        file.write_lines([json.dumps(table, indent=2, ensure_ascii=False)])


def figure_names(rows: Iterable[Row]) -> list[str]:
    """List the figures that some row has, in the order of the rows."""
    return list(dict.fromkeys(name for row in rows for name in row["figures"]))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the table with two columns a figure, the second its standard error."""
    names = figure_names(rows)
    options = list(dict.fromkeys(name for row in rows for name in row["sampling"]))
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    settings = ["num_inference_steps", "guidance_scale", *options]
    columns = [column for name in names for column in (name, f"{name}_standard_error")]
    writer.writerow(
        ["kind", "name", "settings", *settings, "num_seeds", "saturated_batch", *columns]
    )
    for row in rows:
        values = [row["kind"], row["name"], describe_settings(row)]
        values += [row["num_inference_steps"], row["guidance_scale"]]
        values += [row["sampling"].get(name) for name in options]
        values += [len(row["seeds"]), row.get("saturated_batch")]
        for name in names:
            figure = row["figures"].get(name, {})
            values += [figure.get("mean"), figure.get("standard_error")]
        writer.writerow(values)
    with WholeLinesFile(path) as file:
        file.write_lines(content.getvalue().removesuffix("\n").split("\n"))
