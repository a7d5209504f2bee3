"""``ldm-text bench``: time generators side by side, in turns, in one run."""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ldm_text.batch.texts import check_sampling
from ldm_text.components import check_lengths
from ldm_text.evaluation.bench_meters import (
    CallMeter,
    cold_start,
    matrix_product_peak,
    peak_memory,
)
from ldm_text.evaluation.bench_report import describe_rows, growth_with, growth_with_calls
from ldm_text.evaluation.compare import check_generators
from ldm_text.evaluation.comparison import fill_in
from ldm_text.evaluation.comparison_table import write_json
from ldm_text.evaluation.evaluate import check_least
from ldm_text.evaluation.references import read_option
from ldm_text.evaluation.sweep_options import BenchOptions, SweepPoint, check_once
from ldm_text.evaluation.timing import Stopwatch, TimedCall
from ldm_text.loading import load_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import Precision, resolve_precision
from ldm_text.training_report import describe_machine
from ldm_text.whole_lines import check_output_file

logger = logging.getLogger(__name__)
SEED = (0,)


@dataclass
class BenchEntry:
    """One generator at one setting and one batch size.

    Attributes:
        name: Name of the generator.
        point: The setting.
        batch_size: Texts of a call.
        stopwatch: Times calls.
        meter: Measures their parts.
        seeds: Seed of each timed call so far.
        calls: These calls.
        parts: Seconds of each call by part, of a latent pipeline.
        network_seconds: Seconds of each call in the network.
    """

    name: str
    point: SweepPoint
    batch_size: int
    stopwatch: Stopwatch
    meter: CallMeter
    seeds: list[int] = field(default_factory=list)
    calls: list[TimedCall] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    network_seconds: list[float] = field(default_factory=list)

    def time_call(self, seed: int) -> None:
        """Time one call."""
        with self.meter.measuring():
            call = self.stopwatch.time_batch(self.batch_size, seed)
        self.seeds.append(seed)
        self.calls.append(call)
        self.network_seconds.append(self.meter.network_seconds)
        if (parts := self.meter.parts_of(call.seconds)) is not None:
            self.parts.append(parts)

    def count_flops(self, seed: int) -> int:
        """Count the operations of the network in one call."""
        with self.meter.measuring(count_flops=True):
            self.stopwatch.time_batch(self.batch_size, seed)
        return self.meter.network_flops

    def describe(self, peak: float) -> dict[str, Any]:
        """Summarize the calls; one more measures memory, and a repetition of each its operations.

        How often the network runs may depend on the seed, and so do its time and operations.

        Args:
            peak: Operations a second of matrix products alone.
        """
        device = self.stopwatch.pipeline.device
        memory = peak_memory(device, lambda: self.stopwatch.time_batch(self.batch_size, 0))
        flops = [self.count_flops(seed) for seed in self.seeds]
        seconds = [call.seconds for call in self.calls]
        row: dict[str, Any] = {
            "generator": self.name,
            "num_inference_steps": self.point.num_inference_steps,
            "guidance_scale": self.point.guidance_scale,
            "sampling": dict(self.point.sampling),
            "batch_size": self.batch_size,
            "length_tokens": self.stopwatch.length_tokens,
            "seconds": median(seconds),
            "seconds_to_first_text": median(call.seconds_to_first_text for call in self.calls),
            "tokens_per_second": sum(call.num_tokens for call in self.calls) / sum(seconds),
            "network_calls": median(call.num_network_calls for call in self.calls),
            "network_seconds": median(self.network_seconds),
            "network_flops": median(flops),
            "share_of_matrix_product_peak": sum(flops) / sum(self.network_seconds) / peak,
            "peak_memory_mib": memory,
        }
        if self.parts:
            row["parts"] = {
                name: median(parts[name] for parts in self.parts) for name in self.parts[0]
            }
        return row


def bench(
    generators: list[BenchOptions],
    output: Path,
    data: str | None = None,
    text_field: str = "target",
    source_field: str | None = "source",
    batch_sizes: tuple[int, ...] = (1, 8, 64, 256),
    lengths: tuple[int, ...] = (),
    num_repeats: int = 3,
    num_cold_starts: int = 1,
    precision: Precision = "auto",
    overwrite: bool = False,
) -> None:
    """Time generators side by side: each setting of each at each batch size, in turns.

    Only tokens of the texts count, up to their end. Prints a table and writes JSON: latency,
    tokens a second, the time of each part of a latent pipeline's call, memory, the share of the
    measured peak of matrix products that the network reaches, and how the time grows with calls,
    batch and length.

    Args:
        generators: The generators, as for `ldm-text compare`; several numbers of steps in a sweep
            show how the time grows with them. With `compile: true` the networks are compiled.
        output: JSON file to write.
        data: Data whose sources are the prompts; without it, texts are written unconditionally.
        text_field: Field of the target text.
        source_field: Field of the source; null for data without sources.
        batch_sizes: Texts of a call.
        lengths: Lengths in tokens to time all of this at, such as [32, 64, 128, 256, 512]: each
            text has exactly so many, and no end token. By default texts end where they end, and are
            at most as long as their pipeline allows.
        num_repeats: Timed calls of each; medians count. One more warms up.
        num_cold_starts: Fresh processes of each pipeline that are timed until their first text; 0
            leaves it out. Compiling, which is a part of it, is told apart.
        precision: Type the networks compute in, auto is bfloat16 where the device computes it
            natively, else float32.
        overwrite: Replace the output file.

    Raises:
        FileNotFoundError: If a pipeline, the data or the folder of the output is missing.
        ValueError: If an option is out of range, or has no effect for its generator.
    """
    check_generators(generators, SEED)
    check_least(num_repeats=num_repeats)
    if not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"`--batch_sizes` must be 1 or larger, got {list(batch_sizes)}.")
    if lengths and min(lengths) < 1:
        raise ValueError(f"`--lengths` must be 1 or larger, got {list(lengths)}.")
    check_once("--batch_sizes", batch_sizes)
    check_once("--lengths", lengths)
    if num_cold_starts < 0:
        raise ValueError(f"`--num_cold_starts` must be 0 or larger, got {num_cold_starts}.")
    check_output_file("--output", output)
    if output.exists() and not overwrite:
        raise ValueError(f"`--output`: `{output}` is there; name another, or pass `--overwrite`.")
    prompts = sources_of(data, text_field, source_field)
    entries = make_entries(generators, prompts, batch_sizes, lengths, precision)
    device = entries[0].stopwatch.pipeline.device
    logger.info("%d settings and batch sizes, %d calls of each.", len(entries), num_repeats + 1)
    for repeat in range(num_repeats + 1):
        for entry in entries:
            if repeat == 0:
                entry.stopwatch.time_batch(entry.batch_size, 0)  # warms up
            else:
                entry.time_call(repeat)
    peak = matrix_product_peak(device, precision)
    rows = [entry.describe(peak) for entry in entries]
    starts = {
        options.name: cold_start(options.pipeline, num_cold_starts, options.compile)
        for options in generators
    }
    result = {
        "machine": describe_machine(),
        "num_threads": torch.get_num_threads(),
        "precision": resolve_precision(precision, device),
        "matrix_product_peak_flops": peak,
        "compiled": {options.name: options.compile for options in generators},
        "cold_start_seconds": {name: start and start.seconds for name, start in starts.items()},
        "compile_seconds": {
            name: start and start.compile_seconds for name, start in starts.items()
        },
        "rows": rows,
        "growth_with_calls": growth_with_calls(rows),
        "growth_with_batch": growth_with(rows, "batch_size", "text"),
        "growth_with_length": growth_with(rows, "length_tokens", "token"),
    }
    write_json(output, result)
    sys.stdout.write(describe_rows(rows))
    logger.info("Wrote `%s`.", output)


def sources_of(data: str | None, text_field: str, source_field: str | None) -> list[str | None]:
    """Read the sources of data; one empty prompt without data or sources."""
    if data is None or source_field is None:
        return [None]
    fields = {"text_field": text_field, "source_field": source_field}
    records = read_option("--data", data, split="validation", **fields)
    return [record.source for record in records if record.source is not None] or [None]


def make_entries(
    generators: list[BenchOptions],
    prompts: list[str | None],
    batch_sizes: tuple[int, ...],
    lengths: tuple[int, ...],
    precision: Precision,
) -> list[BenchEntry]:
    """Load all pipelines and write a text at each setting, before anything is timed.

    Raises:
        ValueError: If a pipeline, a prompt or a setting does not do.
    """
    entries = []
    for options in generators:
        pipeline = load_pipeline(options.pipeline)
        meter = CallMeter(pipeline)
        pipeline.tokenize_prompts(prompts)
        try:
            for point in options.points(SEED):
                point = fill_in(point, pipeline)
                check_sampling(pipeline, point.sampling)
                for length in lengths or (None,):
                    if length is not None and isinstance(pipeline, LatentTextPipeline):
                        check_lengths(pipeline.autoencoder, length, 1)
                    stopwatch = Stopwatch(pipeline, prompts, point, precision, length)
                    stopwatch.time_batch(1, 0)  # refuses what the pipeline refuses
                    entries += [
                        BenchEntry(options.name, point, batch_size, stopwatch, meter)
                        for batch_size in batch_sizes
                    ]
            if options.compile:
                pipeline.compile(batch_sizes)
        except ValueError as error:
            raise ValueError(f"Generator `{options.name}`: {error}") from error
    return entries
