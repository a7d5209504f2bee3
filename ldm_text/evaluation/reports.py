"""Parts of the report of an evaluation, for a pipeline and for a file of texts."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ldm_text.evaluation.evaluator import TextEvaluator
from ldm_text.evaluation.likelihood import measure_likelihood
from ldm_text.evaluation.metrics import mean_distinct_texts
from ldm_text.evaluation.reconstruction import measure_reconstruction
from ldm_text.evaluation.references import read_text_sets
from ldm_text.evaluation.sweep import SamplerSetting, Sweep, summarize
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline


def describe_pipeline(pipeline: TextPipeline) -> dict[str, Any]:
    """Name a pipeline's model and count the parameters of all its networks."""
    if isinstance(pipeline, LatentTextPipeline):
        modules = [pipeline.denoiser, pipeline.autoencoder]
    else:
        modules = [pipeline.token_model]
    return {
        "path": pipeline.name_or_path,
        "model": type(modules[0]).__name__,
        "parameters": sum(value.numel() for module in modules for value in module.parameters()),
    }


def report_pipeline(
    sweep: Sweep,
    grid: Sequence[SamplerSetting],
    seeds: Sequence[int],
    num_distinct_samples: int,
    num_likelihood_draws: int,
) -> dict[str, Any]:
    """Measure a pipeline at all settings and seeds, and what does not depend on them.

    Generation takes longest and comes last: what the references make impossible is seen before.
    """
    pipeline, evaluator = sweep.pipeline, sweep.evaluator
    report: dict[str, Any] = {
        "generator": describe_pipeline(pipeline),
        "likelihood": measure_likelihood(
            pipeline, evaluator.records, num_likelihood_draws, batch_size=sweep.batch_size
        ),
    }
    if isinstance(pipeline, LatentTextPipeline):
        texts = [text for one in evaluator.records for text in one.references or (one.text,)]
        report["autoencoder"] = measure_reconstruction(pipeline, texts)
    results = [sweep.measure(setting, seed) for setting, seed in product(grid, seeds)]
    report |= {"generation": results, "summary": summarize(results)}
    if evaluator.sources:
        own_results = [row for row in results if row["scheduler"] == "pipeline"]
        best = max(own_results, key=lambda row: row["bleu"])
        report["diversity"] = sweep.diversity(best, num_distinct_samples)
    return report


def report_texts(path: Path, evaluator: TextEvaluator) -> dict[str, Any]:
    """Measure the sets of texts in a file; see ``read_text_sets``."""
    sets = read_text_sets(path, evaluator.records)
    results = [evaluator(texts) | {"examples": texts[:5]} for texts in sets]
    report: dict[str, Any] = {
        "generator": {"texts": str(path), "num_sets": len(sets)},
        "generation": results,
        "summary": summarize(results),
    }
    if evaluator.sources and len(sets) > 1:
        samples = list(zip(*sets, strict=True))
        report["diversity"] = {
            "num_rows": len(samples),
            "num_samples": len(sets),
            "mean_distinct_texts": mean_distinct_texts(samples),
        }
    return report


def report_references(evaluator: TextEvaluator) -> dict[str, Any]:
    """Measure reference texts as if they had been generated.

    Returns:
        Under ``first_reference`` the figures of each first reference against the others of its row
        (or itself, where there is no other); without sources, under ``reference_half`` those of
        every second text against the texts between.
    """
    records = evaluator.records
    if not evaluator.sources:
        texts = [record.text for record in records[::2]]
        return {"reference_half": evaluator.against(records[1::2] or records)(texts)}
    others = [record.references[1:] or record.references for record in records]
    rows = [
        replace(record, text=rest[0], references=rest)
        for record, rest in zip(records, others, strict=True)
    ]
    texts = [record.references[0] for record in records]
    return {"first_reference": evaluator.against(rows)(texts)}
