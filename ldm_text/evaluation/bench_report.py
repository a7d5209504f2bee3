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


def setting_of(row: dict[str, Any], *left_out: str) -> str:
    """Name what was timed, apart from some fields, so that rows can be grouped."""
    return json.dumps({name: row[name] for name in SETTING if name not in left_out})


def growth_with_calls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit ``seconds = fixed + calls * each`` where a generator was timed at several step numbers.

    Returns:
        ``generator``, ``batch_size``, ``seconds_fixed`` and ``seconds_per_call`` of each.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(setting_of(row, "num_inference_steps"), []).append(row)
    fits = []
    for group in groups.values():
        calls = [row["network_calls"] for row in group]
        if len(set(calls)) < 2:
            continue
        slope, intercept = linear_regression(calls, [row["seconds"] for row in group])
        fits.append(
            {
                name: group[0][name]
                for name in SETTING
                if name not in ("num_inference_steps", "sampling")
            }
            | {"seconds_fixed": intercept, "seconds_per_call": slope}
        )
    return fits


def growth_with_batch(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the time of each batch size with that of the smallest one.

    Returns:
        For each setting ``seconds_by_batch_size``, and ``relative_seconds_per_text``: 1 where a
        larger batch saves nothing.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(setting_of(row, "batch_size"), []).append(row)
    growth = []
    for group in groups.values():
        first = min(group, key=lambda row: row["batch_size"])
        alone = first["seconds"] / first["batch_size"]
        growth.append(
            {name: first[name] for name in SETTING if name not in ("batch_size", "sampling")}
            | {
                "seconds_by_batch_size": {row["batch_size"]: row["seconds"] for row in group},
                "relative_seconds_per_text": {
                    row["batch_size"]: row["seconds"] / row["batch_size"] / alone for row in group
                },
            }
        )
    return growth


def growth_with_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the time of each length with that of the shortest one.

    Returns:
        For each setting and batch size that was timed at several lengths ``seconds_by_length``, and
        ``relative_seconds_per_token``: 1 where the time grows as the length does.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(setting_of(row, "length_tokens"), []).append(row)
    growth = []
    for group in groups.values():
        if len(group) < 2:
            continue
        first = min(group, key=lambda row: row["length_tokens"])
        alone = first["seconds"] / first["length_tokens"]
        growth.append(
            {name: first[name] for name in SETTING if name not in ("length_tokens", "sampling")}
            | {
                "seconds_by_length": {row["length_tokens"]: row["seconds"] for row in group},
                "relative_seconds_per_token": {
                    row["length_tokens"]: row["seconds"] / row["length_tokens"] / alone
                    for row in group
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
