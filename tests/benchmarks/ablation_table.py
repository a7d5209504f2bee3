"""The ablation table in Markdown: mean and standard error of each row over its seeds.

Beside the first figure of the texts stands how far it is from that of the base with the same seed:
trainings of one seed share their start and the order of their texts, so that these differences
scatter less than the figures themselves. The figures of an autoencoder stand in the rows that
train one of their own; the others have the base's.
"""

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
        "generative_perplexity": "perplexity",  # where there was a scorer
        "mauve": "MAUVE",
        "unigram_entropy": "entropy",
        "distinct_2": "distinct-2",  # a distance falls, too, where texts become alike or short
        "length_error": "words too many",
    },
}
AUTOENCODER_FIGURES = {
    "val/token_accuracy": "tokens",
    "val/token_accuracy_noise_1": "at noise 1",
    "val/noise_recovery": "recovery",
    "val/midpoint_agreement": "midpoints",
}
# Results of several machines stand in one table: minutes would not be comparable.
COSTS = {"parameters": "parameters, M", "training_flops": "1e13 ops"}
BASE = "base"


def figures_of(line: dict[str, Any]) -> dict[str, float]:
    """Name the figures of a result as the columns of the table do."""
    figures: dict[str, float] = {}
    for texts in line["texts"]:
        for name, title in TEXT_FIGURES[line["data"]].items():
            if name in texts:
                figures[f"{title}, {texts['num_inference_steps']} steps"] = texts[name]
    for name, title in AUTOENCODER_FIGURES.items():
        if name in line["autoencoder"]:
            figures[title] = line["autoencoder"][name]
    return figures | {title: line[name] for name, title in COSTS.items()}


def with_differences(
    figures: dict[str, float], base: dict[str, float] | None, main: str
) -> dict[str, float]:
    """Put behind each figure of a name how far it is from that of the base, if there is one."""
    found: dict[str, float] = {}
    for title, value in figures.items():
        found[title] = value
        if base is not None and title.startswith(main) and title in base:
            found[f"{title}, against base"] = value - base[title]
    return found


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 of one value, which tells none."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def cell(values: Sequence[float]) -> str:
    """Write the mean, and its standard error where the values differ."""
    if not values:
        return ""
    mean, error = f"{statistics.fmean(values):.3g}", standard_error(values)
    return f"{mean} \u00b1 {error:.1g}" if error else mean


def figures_by_row(
    lines: Sequence[dict[str, Any]], budget: float
) -> dict[str, dict[str, list[float]]]:
    """Gather the figures of each row over its seeds, by the titles of the table.

    Args:
        lines: Results, later ones in place of earlier ones of the same row and seed.
        budget: Results of other budgets are left out.
    """
    latest = {(line["row"], line["seed"]): line for line in lines if line["budget"] == budget}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, seed), line in latest.items():
        base = latest.get((BASE, seed))
        main = next(iter(TEXT_FIGURES[line["data"]].values()))
        of_base = None if base is None or name == BASE else figures_of(base)
        for title, value in with_differences(figures_of(line), of_base, main).items():
            found[name][title].append(value)
    return found


def markdown_table(rows: Sequence[Row], lines: Sequence[dict[str, Any]], budget: float) -> str:
    """Write the rows that are measured.

    Args:
        rows: Rows in their order.
        lines: Results, later ones in place of earlier ones of the same row and seed.
        budget: Results of other budgets are left out.
    """
    columns = figures_by_row(lines, budget)
    measured = [row for row in rows if row.name in columns]
    for row in measured:
        if row.name != BASE and "autoencoder" not in row.stages:
            for title in AUTOENCODER_FIGURES.values():
                columns[row.name].pop(title, None)
    base_last = sorted(measured, key=lambda row: row.name == BASE)  # it has no differences
    titles = list(dict.fromkeys(title for row in base_last for title in columns[row.name]))
    table = [["factor (base)", "setting", *titles, "seeds"]]
    table.append(["---", "---", *["---:"] * (len(titles) + 1)])
    for row in measured:
        own = columns[row.name]
        num_seeds = max(len(values) for values in own.values())
        cells = [cell(own.get(title, [])) for title in titles]
        table.append([row.factor, row.setting, *cells, str(num_seeds)])
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
