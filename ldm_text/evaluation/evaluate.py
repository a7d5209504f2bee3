"""``ldm-text evaluate``: measure a pipeline against references, over steps and guidance scales."""

import json
import logging
import resource
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from denoiser.schedulers import SchedulerName, make_scheduler, noise_shift_of
from ldm_text.checkpoint import read_json
from ldm_text.data.records import TextRecord, read_records
from ldm_text.evaluation.metrics import (
    copied_share,
    corpus_bleu,
    mean_distinct_texts,
    reconstruction_accuracy,
)
from ldm_text.evaluation.plots import plot_bleu
from ldm_text.evaluation.slots import SlotChecker
from ldm_text.generate import Precision, generate_rows
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import encode_text
from ldm_text.whole_lines import WholeLinesFile, check_output_file

logger = logging.getLogger(__name__)


def read_option(option: str, data: str, **options: Any) -> list[TextRecord]:
    """Read the records that an option names.

    Raises:
        ValueError: If they cannot be read.
    """
    try:
        return list(read_records(data, **options))
    except (OSError, ValueError) as error:
        raise ValueError(f"`{option}`: {error}") from error


def group_by_source(records: list[TextRecord]) -> list[TextRecord]:
    """Join records of one source into one record with all their references, in order."""
    references: dict[str | None, list[str]] = defaultdict(list)
    for record in records:
        references[record.source] += record.references or (record.text,)
    return [TextRecord(texts[0], source, tuple(texts)) for source, texts in references.items()]


def measure_reconstruction(pipeline: LatentTextPipeline, texts: list[str]) -> dict[str, Any]:
    """Encode and decode the texts that are short enough for the model, all in float32."""
    limit = pipeline.config.max_length_tokens
    ids = [encode_text(pipeline.tokenizer, text) for text in texts]
    rows = [[*row, pipeline.tokenizer.eos_token_id] for row in ids if len(row) < limit]
    input_ids = torch.tensor(
        [row + [pipeline.tokenizer.pad_token_id] * (limit - len(row)) for row in rows],
        device=pipeline.device,
    )
    lengths = torch.tensor([len(row) for row in rows], device=pipeline.device)
    attention_mask = torch.arange(limit, device=pipeline.device) < lengths[:, None]
    accuracy = reconstruction_accuracy(pipeline.autoencoder, input_ids, attention_mask)
    return accuracy | {"num_texts": len(rows), "num_too_long": len(texts) - len(rows)}


def measure_texts(
    texts: list[str], records: list[TextRecord], slots: SlotChecker, training_texts: set[str]
) -> dict[str, float]:
    """Compute the figures of one text a record."""
    sources = [record.source or "" for record in records]
    figures = {"bleu": corpus_bleu(texts, [record.references for record in records])}
    figures |= slots.error_rate(sources, texts)
    if training_texts:
        figures["copied_from_training"] = copied_share(texts, training_texts)
    return figures


def measure_generation(
    pipeline: LatentTextPipeline,
    records: list[TextRecord],
    slots: SlotChecker,
    training_texts: set[str],
    **options: Any,
) -> dict[str, Any]:
    """Generate one text a record with the given options and measure texts and time."""
    start = time.perf_counter()
    batches = generate_rows(pipeline, [record.source for record in records], **options)
    texts = [row.text for batch in batches for row in batch]
    seconds = time.perf_counter() - start
    figures = measure_texts(texts, records, slots, training_texts)
    logger.info("%s: %s", options, figures)
    return options | figures | {"seconds": seconds, "examples": texts[:5]}


def evaluate(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    data: str,
    output: Path,
    text_field: str = "target",
    source_field: str = "source",
    references_field: str | None = "references",
    training_data: str | None = None,
    num_inference_steps: tuple[int, ...] = (16, 8, 4),
    guidance_scale: tuple[float, ...] = (1.0, 2.0, 3.0),
    schedulers: tuple[SchedulerName, ...] = (),
    num_distinct_samples: int = 8,
    max_rows: int | None = None,
    seeds: tuple[int, ...] = (0,),
    batch_size: int = 64,
    precision: Precision = "bfloat16",
) -> None:
    """Measure a pipeline and write the figures as JSON and a plot.

    Measured are BLEU and slot errors for each number of steps, guidance scale and scheduler, the
    share of texts copied from the training data, how many samples of a row differ, the accuracy of
    the autoencoder, and the same figures of the first reference of each row.

    Args:
        pipeline: Folder of the pipeline.
        data: Validation data, of any kind that training takes.
        output: JSON file to write; figures of other kinds that it already holds are kept. The plot
            stands beside it as PNG.
        text_field: Field of the target text.
        source_field: Field of the source.
        references_field: Field of a list of references; without it, rows of one source are joined.
        training_data: Training data, to look for copies.
        num_inference_steps: Numbers of steps to measure; the first is the one for other figures.
        guidance_scale: Guidance scales to measure.
        schedulers: Further schedulers, at the first number of steps and the last guidance scale.
        num_distinct_samples: Samples a row for the count of different texts.
        max_rows: Measure only so many sources.
        seeds: Seeds; each is measured.
        batch_size: Rows that are generated together.
        precision: Type the networks compute in.
    """
    check_output_file("--output", output)
    report = read_json(output) if output.is_file() else {}
    for name, values in (
        ("num_inference_steps", num_inference_steps),
        ("guidance_scale", guidance_scale),
        ("seeds", seeds),
    ):
        if not values:
            raise ValueError(f"`--{name}` must hold at least one number, got none.")
    fields = {"text_field": text_field, "source_field": source_field}
    options = fields | {"references_field": references_field, "split": "validation"}
    records = group_by_source(read_option("--data", data, **options))[:max_rows]
    training = []
    if training_data is not None:
        training = read_option("--training_data", training_data, **fields)
    training_texts = {record.text for record in training}
    slots = SlotChecker(record.source or "" for record in [*records, *training])
    loaded = LatentTextPipeline.from_pretrained(pipeline)
    loaded.to("cuda" if torch.cuda.is_available() else "cpu")

    sources = [record.source for record in records]
    for steps, scale in product(num_inference_steps, guidance_scale):
        loaded.check_inputs(sources, num_distinct_samples, steps, scale)
    loaded.tokenize_prompts(sources)  # refuse what is too long before anything is measured

    common: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
    results = []
    own_scheduler = loaded.scheduler
    grid = [(None, *point) for point in product(num_inference_steps, guidance_scale)]
    grid += [(name, num_inference_steps[0], guidance_scale[-1]) for name in schedulers]
    for (name, steps, scale), seed in product(grid, seeds):
        if name is not None:
            loaded.scheduler = make_scheduler(name, noise_shift_of(own_scheduler))
        options = common | {"num_inference_steps": steps, "guidance_scale": scale, "seed": seed}
        figures = measure_generation(loaded, records, slots, training_texts, **options)
        results.append({"scheduler": name or "pipeline"} | figures)
        loaded.scheduler = own_scheduler

    own_results = [row for row in results if row["scheduler"] == "pipeline"]
    best = max(own_results, key=lambda row: row["bleu"])
    report |= {
        "data": {"path": data, "num_sources": len(records)},
        "autoencoder": measure_reconstruction(
            loaded, [text for record in records for text in record.references]
        ),
        "first_reference": measure_texts(
            [record.references[0] for record in records],
            [TextRecord("", r.source, r.references[1:] or r.references) for r in records],
            slots,
            training_texts,
        ),
        "generation": results,
        "diversity": measure_diversity(loaded, records, num_distinct_samples, best, common),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    plot_bleu(results, output.with_suffix(".png"))


def measure_diversity(
    pipeline: LatentTextPipeline,
    records: list[TextRecord],
    num_samples: int,
    best: dict[str, Any],
    common: dict[str, Any],
    num_rows: int = 100,
) -> dict[str, Any]:
    """Count different texts among samples of a row, at the settings of the best result."""
    options = common | {name: best[name] for name in ("num_inference_steps", "guidance_scale")}
    prompts = [record.source for record in records[:num_rows]]
    samples: list[list[str]] = [[] for _ in prompts]
    for batch in generate_rows(pipeline, prompts, num_samples=num_samples, **options):
        for row in batch:
            samples[row.id].append(row.text)
    return options | {
        "num_rows": len(prompts),
        "num_samples": num_samples,
        "mean_distinct_texts": mean_distinct_texts(samples),
    }
