"""The ablation table in Markdown: mean and standard error of each row over its seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ablation_rows import Row

TEXT_FIGURES = {
    "e2e": {"bleu": "BLEU", "slot_error_rate": "slot errors"},
    "tinystories": {
        "energy_distance": "energy distance",
        "mauve": "MAUVE",
        "unigram_entropy": "entropy",
    },
}
AUTOENCODER_FIGURES = {
    "val/token_accuracy": "tokens",
    "val/token_accuracy_noise_1": "at noise 1",
    "val/noise_recovery": "recovery",
    "val/midpoint_agreement": "midpoints",
}
COSTS = {"training_minutes": "minutes", "parameters": "parameters, M", "training_flops": "1e13 ops"}


def figures_of(line: dict[str, Any]) -> dict[str, float]:
    """Name the figures of a result as the columns of the table do."""
    figures: dict[str, float] = {}
    for texts in line["texts"]:
        for name, title in TEXT_FIGURES[line["data"]].items():
            figures[f"{title}, {texts['num_inference_steps']} steps"] = texts[name]
    for name, title in AUTOENCODER_FIGURES.items():
        if name in line["autoencoder"]:
            figures[title] = line["autoencoder"][name]
    return figures | {title: line[name] for name, title in COSTS.items()}


def cell(values: Sequence[float]) -> str:
    """Write mean and standard error of the mean, or the one value that there is."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3g}"
    if len(values) == 1:
        return mean
    return f"{mean} \u00b1 {statistics.stdev(values) / math.sqrt(len(values)):.1g}"


def markdown_table(rows: Sequence[Row], lines: Sequence[dict[str, Any]], budget: float) -> str:
    """Write the rows that are measured.

    Args:
        rows: Rows in their order.
        lines: Results, later ones in place of earlier ones of the same row and seed.
        budget: Results of other budgets are left out.
    """
    latest = {(line["row"], line["seed"]): line for line in lines if line["budget"] == budget}
    columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, _), line in latest.items():
        for title, value in figures_of(line).items():
            columns[name][title].append(value)
    measured = [row for row in rows if row.name in columns]
    titles = list(dict.fromkeys(title for row in measured for title in columns[row.name]))
    table = [["factor (base)", "setting", *titles, "seeds"]]
    table.append(["---", "---", *["---:"] * (len(titles) + 1)])
    for row in measured:
        own = columns[row.name]
        num_seeds = max(len(values) for values in own.values())
        cells = [cell(own.get(title, [])) for title in titles]
        table.append([row.factor, row.setting, *cells, str(num_seeds)])
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
