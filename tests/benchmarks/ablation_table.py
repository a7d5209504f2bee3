"""The ablation table in Markdown: mean and standard error of each row over its seeds.

Beside the first figure of the texts stands how far it is from the base: from that of the same seed
where they share the autoencoder, start and order of the texts, as such differences scatter less
than the figures do. A row with an autoencoder of its own shares too little for that; its mean is
compared with the mean of the base, which may have more seeds. The figures of an autoencoder stand
in the rows that train one of their own; the others have the base's.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from ablation_rows import Row

from ldm_text.evaluation.measured_tables import Figure
from ldm_text.evaluation.targets import difference

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
AGAINST_BASE = ", against base"
SEEDS = "seeds"


def mean_of(values: Collection[float]) -> Figure:
    """Average the figures of some seeds; the error of one is unknown."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Figure(statistics.fmean(values), error)  # exactly 0 for equal costs, unlike NumPy's


def against_base(own: dict[int, float], base: dict[int, float], is_paired: bool) -> Figure | None:
    """Say how far a row is from the base.

    Args:
        own: Figure by seed.
        base: That of the base.
        is_paired: Whether a seed is compared with the same seed of the base, else the means are.

    Returns:
        The difference; ``None`` where there is nothing to compare with.
    """
    if is_paired:
        found = [value - base[seed] for seed, value in own.items() if seed in base]
        return mean_of(found) if found else None
    return difference(mean_of(own.values()), mean_of(base.values())) if base else None


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


def means_by_row(
    rows: Sequence[Row], lines: Sequence[dict[str, Any]], budget: float
) -> dict[str, dict[str, Figure]]:
    """Average the figures of each row that is measured, by the titles of the table.

    Args:
        rows: Rows in their order.
        lines: Results, later ones in place of earlier ones of the same row and seed.
        budget: Results of other budgets are left out.
    """
    latest = {(line["row"], line["seed"]): line for line in lines if line["budget"] == budget}
    by_row: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for (name, seed), line in latest.items():
        for title, value in figures_of(line).items():
            by_row[name][title][seed] = value
    main = tuple(next(iter(titles.values())) for titles in TEXT_FIGURES.values())
    found: dict[str, dict[str, Figure]] = {}
    for row in rows:
        if row.name not in by_row:
            continue
        columns = found[row.name] = {}
        is_base, shares = row.name == BASE, "autoencoder" not in row.stages
        for title, own in by_row[row.name].items():
            if title in AUTOENCODER_FIGURES.values() and shares and not is_base:
                continue
            columns[title] = mean_of(own.values())
            if title.startswith(main) and not is_base:
                base = by_row[BASE][title] if BASE in by_row else {}
                if (against := against_base(own, base, is_paired=shares)) is not None:
                    columns[title + AGAINST_BASE] = against
        columns[SEEDS] = Figure(max(map(len, by_row[row.name].values())), None)
    return found


def markdown_table(rows: Sequence[Row], lines: Sequence[dict[str, Any]], budget: float) -> str:
    """Write the rows that are measured, and those with steps of their own as a second table.

    Args:
        rows: Rows in their order.
        lines: Results, later ones in place of earlier ones of the same row and seed.
        budget: Results of other budgets are left out.
    """
    own_steps = [row for row in rows if "num_inference_steps" in row.sampling]
    parts = [row for row in rows if row not in own_steps], own_steps
    tables = (one_table(part, means_by_row(part, lines, budget)) for part in parts)
    return "\n".join(filter(None, tables))


def one_table(rows: Sequence[Row], columns: dict[str, dict[str, Figure]]) -> str:
    """Write rows that have the same columns; nothing where none is measured."""
    if not columns:
        return ""
    base_last = sorted(columns, key=lambda name: name == BASE)  # it has no differences
    titles = list(dict.fromkeys(title for name in base_last for title in columns[name]))
    titles.sort(key=lambda title: title == SEEDS)  # last
    table = [["factor (base)", "setting", *titles]]
    table.append(["---", "---", *["---:"] * len(titles)])
    for row in rows:
        if row.name in columns:
            cells = [str(columns[row.name].get(title, "")) for title in titles]
            table.append([row.factor, row.setting, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
