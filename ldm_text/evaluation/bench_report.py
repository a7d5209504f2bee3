"""What the times of ``ldm-text bench`` say: a table, and how they grow."""

import json
from statistics import linear_regression
from typing import Any

from ldm_text.evaluation.sweep_options import describe_settings

SETTING = (
    "generator",
    "num_inference_steps",
    "guidance_scale",
    "sampling",
    "batch_size",
    "length_tokens",
)


def setting_of(row: dict[str, Any], field: str) -> dict[str, Any]:
    """Tell how a row was timed, apart from one field."""
    return {name: row[name] for name in SETTING if name != field}


def groups_of(rows: list[dict[str, Any]], field: str) -> list[list[dict[str, Any]]]:
    """Put rows together that were timed alike but for one field."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(setting_of(row, field)), []).append(row)
    return list(groups.values())


def growth_with_calls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit ``seconds = fixed + calls * each`` where a generator was timed at several step numbers.

    Returns:
        The setting, ``seconds_fixed`` and ``seconds_per_call`` of each.
    """
    fits = []
    for group in groups_of(rows, "num_inference_steps"):
        calls = [row["network_calls"] for row in group]
        if len(set(calls)) < 2:
            continue
        slope, intercept = linear_regression(calls, [row["seconds"] for row in group])
        fits.append(
            setting_of(group[0], "num_inference_steps")
            | {"seconds_fixed": intercept, "seconds_per_call": slope}
        )
    return fits


def growth_with(rows: list[dict[str, Any]], field: str, unit: str) -> list[dict[str, Any]]:
    """Compare the time at each value of a field with that at the smallest one.

    Args:
        rows: What was timed.
        field: ``batch_size`` or ``length_tokens``; rows where it is ``None`` are left out.
        unit: What there are so many of, ``text`` or ``token``.

    Returns:
        For each setting its seconds by value, ``seconds_by_FIELD``, and
        ``relative_seconds_per_UNIT``: 1 where larger values save nothing.
    """
    growth = []
    for group in groups_of([row for row in rows if row[field] is not None], field):
        first = min(group, key=lambda row: row[field])
        alone = first["seconds"] / first[field]
        growth.append(
            setting_of(first, field)
            | {
                f"seconds_by_{field}": {row[field]: row["seconds"] for row in group},
                f"relative_seconds_per_{unit}": {
                    row[field]: row["seconds"] / row[field] / alone for row in group
                },
            }
        )
    return growth


def describe_rows(rows: list[dict[str, Any]]) -> str:
    """Write rows as a table of plain text."""
    header = (
        "generator",
        "batch",
        "length",
        "seconds",
        "first",
        "tokens/s",
        "calls",
        "of peak",
        "MiB",
    )
    table = [header]
    for row in rows:
        settings = describe_settings(row)
        memory = row["peak_memory_mib"]
        table.append(
            (
                f"{row['generator']}{f' ({settings})' if settings else ''}",
                str(row["batch_size"]),
                str(row["length_tokens"] or ""),
                f"{row['seconds']:.4g}",
                f"{row['seconds_to_first_text']:.4g}",
                f"{row['tokens_per_second']:.4g}",
                f"{row['network_calls']:g}",
                f"{row['share_of_matrix_product_peak']:.1%}",
                "" if memory is None else f"{memory:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *figures in table:
        cells = [f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]) + "\n")
    return "".join(lines)
