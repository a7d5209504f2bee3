"""Generate and measure texts over steps, guidance scales, schedulers and seeds."""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from denoiser.schedulers import SchedulerName
from ldm_text.batch.texts import check_sampling, set_scheduler
from ldm_text.evaluation.evaluator import TextEvaluator
from ldm_text.evaluation.likelihood import standard_error
from ldm_text.evaluation.metrics import mean_distinct_texts
from ldm_text.evaluation.sweep_options import check_once
from ldm_text.generated_rows import Sampling, generate_rows
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import Precision, resolve_precision

logger = logging.getLogger(__name__)

SETTINGS = ("scheduler", "sampling", "num_inference_steps", "guidance_scale")
DEFAULT_STEPS = (16, 8, 4)


@dataclass(frozen=True)
class SamplerSetting:
    """How texts are generated; ``None`` is the pipeline's own way."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: SchedulerName | None = None


def axis(name: str, values: Sequence | None, defaults: Sequence, own: Any) -> Sequence:
    """Choose the values of one setting.

    Args:
        name: The setting's name.
        values: What the user chose, or ``None``.
        defaults: What to measure where the user chose nothing.
        own: The pipeline's own value, ``None`` where the setting has no effect.

    Raises:
        ValueError: If the user chose nothing of many, a value twice, or something without effect.
    """
    if values is not None and not values:
        raise ValueError(f"`--{name}` must hold at least one number, got none.")
    check_once(f"--{name}", values or ())
    if own is None and values is not None:
        raise ValueError(f"`--{name}` has no effect for this pipeline, leave it out; got {values}.")
    if own is None:
        return (None,)
    return defaults if values is None else values


@dataclass
class Sweep:
    """Generate one text a record for each setting and seed, and measure them.

    Attributes:
        pipeline: The generator.
        evaluator: Measures texts.
        sampling: Further options of the pipeline's sampler.
        batch_size: Rows that are generated together.
        precision: Type the networks compute in.

    Raises:
        ValueError: If the pipeline does not know an option of ``sampling``.
    """

    pipeline: TextPipeline
    evaluator: TextEvaluator
    sampling: Sampling | None = None
    batch_size: int = 64
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        """Refuse options the sampler does not know; let reports name the type computed in."""
        check_sampling(self.pipeline, self.sampling)
        self.precision = resolve_precision(self.precision, self.pipeline.device)

    def measure(self, setting: SamplerSetting, seed: int) -> dict[str, Any]:
        """Measure texts and time of one setting."""
        common = {"batch_size": self.batch_size, "precision": self.precision}
        chosen = {
            "num_inference_steps": setting.num_inference_steps,
            "guidance_scale": setting.guidance_scale,
            "seed": seed,
        }
        options = common | ({"sampling": self.sampling} if self.sampling else {}) | chosen
        start = time.perf_counter()
        samples = self.generate(setting, seed, len(self.evaluator.records))
        seconds = time.perf_counter() - start
        texts = [text for row in samples for text in row]
        figures = self.evaluator(texts)
        logger.info("%s: %s", options, figures)
        name = setting.scheduler or "pipeline"
        return {"scheduler": name} | options | figures | {"seconds": seconds, "examples": texts[:5]}

    def generate(
        self, setting: SamplerSetting, seed: int, num_rows: int, num_samples: int = 1
    ) -> list[list[str]]:
        """Generate the samples of each of the first records."""
        prompts = [record.source for record in self.evaluator.records[:num_rows]]
        own_scheduler = getattr(self.pipeline, "scheduler", None)
        if setting.scheduler is not None:
            set_scheduler(self.pipeline, setting.scheduler)
        samples: list[list[str]] = [[] for _ in prompts]
        try:
            for batch in generate_rows(
                self.pipeline,
                prompts,
                num_samples=num_samples,
                num_inference_steps=setting.num_inference_steps,
                guidance_scale=setting.guidance_scale,
                seed=seed,
                batch_size=self.batch_size,
                sampling=self.sampling,
                precision=self.precision,
            ):
                for row in batch:
                    samples[row.id].append(row.text)
        finally:
            if setting.scheduler is not None:
                self.pipeline.scheduler = own_scheduler
        return samples

    def default_steps(self) -> list[int | None]:
        """Choose those of ``DEFAULT_STEPS`` that the sampler takes, else the pipeline's own number.

        Samplers bind the number to blocks or tokens, in ways that only they know: they are asked.
        """
        possible: list[int | None] = []
        for num_steps in DEFAULT_STEPS:
            try:
                self.generate(SamplerSetting(num_steps), seed=0, num_rows=1)
            except ValueError as error:
                logger.info("%d steps are left out: %s", num_steps, error)
            else:
                possible.append(num_steps)
        return possible or [self.pipeline.default_num_inference_steps]

    def diversity(
        self, best: dict[str, Any], num_samples: int, num_rows: int = 100
    ) -> dict[str, Any]:
        """Count different texts among samples of a row, at the settings of the best result."""
        setting = SamplerSetting(best["num_inference_steps"], best["guidance_scale"])
        samples = self.generate(setting, 0, num_rows, num_samples)
        return {
            "batch_size": self.batch_size,
            "precision": self.precision,
            "num_inference_steps": setting.num_inference_steps,
            "guidance_scale": setting.guidance_scale,
            "num_rows": len(samples),
            "num_samples": num_samples,
            "mean_distinct_texts": mean_distinct_texts(samples),
        }


def make_grid(
    sweep: Sweep,
    num_inference_steps: Sequence[int] | None,
    guidance_scale: Sequence[float] | None,
    schedulers: Sequence[SchedulerName],
) -> list[SamplerSetting]:
    """List the settings to measure: all steps with all scales, then further schedulers.

    Without sources there is nothing to guide to, so guidance is off by default.

    Raises:
        ValueError: If an option is empty, or has no effect for the pipeline.
    """
    pipeline = sweep.pipeline
    default_scales = (1.0, 2.0, 3.0) if sweep.evaluator.sources else (1.0,)
    own_scale = pipeline.default_guidance_scale
    scales = axis("guidance_scale", guidance_scale, default_scales, own_scale)
    own_steps = pipeline.default_num_inference_steps
    is_chosen = own_steps is None or num_inference_steps is not None
    default_steps = () if is_chosen else sweep.default_steps()
    steps = axis("num_inference_steps", num_inference_steps, default_steps, own_steps)
    check_once("--schedulers", schedulers)
    if schedulers and not isinstance(pipeline, LatentTextPipeline):
        raise ValueError("`--schedulers` has no effect for this pipeline, leave it out.")
    grid = [SamplerSetting(*point) for point in product(steps, scales)]
    return grid + [SamplerSetting(steps[0], scales[-1], name) for name in schedulers]


def check_grid(sweep: Sweep, grid: Sequence[SamplerSetting]) -> None:
    """Write a text at each setting, so that what is refused is refused before all measuring.

    Raises:
        ValueError: If a setting or a source does not do.
    """
    sweep.pipeline.tokenize_prompts([record.source for record in sweep.evaluator.records])
    for setting in grid:
        sweep.generate(setting, seed=0, num_rows=1)


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the figures of each setting over its seeds, with their standard errors.

    Returns:
        One entry a setting; each figure is ``mean`` and ``standard_error``, ``None`` for one seed.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results:
        groups[str([row.get(name) for name in SETTINGS])].append(row)
    summary = []
    for rows in groups.values():
        entry = {name: rows[0][name] for name in SETTINGS if name in rows[0]}
        entry["num_seeds"] = len(rows)
        for name, value in rows[0].items():
            if isinstance(value, float) and name not in SETTINGS:
                values = np.array([row[name] for row in rows if name in row])
                error = standard_error(values)
                entry[name] = {"mean": float(values.mean()), "standard_error": error}
        summary.append(entry)
    return summary
