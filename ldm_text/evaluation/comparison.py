"""Measure the rows of a comparison: reference texts, controls, and generators at their settings."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from ldm_text.batch.texts import check_sampling
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.comparison_table import (
    NO_SETTINGS,
    Row,
    average,
    digest,
    mean_of,
)
from ldm_text.evaluation.controls import CONTROLS, reference_texts
from ldm_text.evaluation.evaluator import TextEvaluator
from ldm_text.evaluation.likelihood import measure_likelihood
from ldm_text.evaluation.reports import describe_pipeline
from ldm_text.evaluation.sweep_options import GeneratorOptions, SweepPoint, describe_settings
from ldm_text.evaluation.timing import Stopwatch, TimingOptions
from ldm_text.generated_rows import generate_rows
from ldm_text.loading import TextPipeline, digest_pipeline
from ldm_text.precision import Precision

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5


@dataclass
class Comparison:
    """Measure rows, or take them from an earlier run where nothing that matters has changed.

    Attributes:
        evaluator: Measures texts.
        held_out: Records of the data that the evaluator has not.
        training_texts: What the controls are made of.
        seeds: Seeds of whatever has none of its own.
        batch_size: Rows that are generated together.
        precision: Type the networks compute in at generation.
        timing: How speed is measured.
        num_likelihood_draws: Estimates of a random bound; 0 leaves likelihoods out.
        measured_with: What all rows depend on, beside their settings.
        known: What has been measured, by digest, in this run or an earlier one.
        keep: Called when there is more in ``known``.
    """

    evaluator: TextEvaluator
    held_out: list[TextRecord]
    training_texts: list[str]
    seeds: tuple[int, ...]
    batch_size: int
    precision: Precision
    timing: TimingOptions
    num_likelihood_draws: int
    measured_with: str
    known: dict[str, Row] = field(default_factory=dict)
    keep: Callable[[], None] = lambda: None

    @property
    def sources(self) -> list[str | None]:
        """Return the source of each record."""
        return [record.source for record in self.evaluator.records]

    def measure_once(self, settings: dict[str, Any], measure: Callable[[], Row]) -> Row:
        """Measure, unless it has been measured with the same settings."""
        name = digest(self.measured_with, settings)
        if name not in self.known:
            self.known[name] = {"digest": name} | settings | measure()
            self.keep()
        return self.known[name]

    def examples(self, texts: Sequence[str]) -> list[dict[str, str | None]]:
        """Choose some texts, those of the same records for each row."""
        num_texts = min(NUM_EXAMPLES, len(texts))
        chosen = [index * len(texts) // num_texts for index in range(num_texts)]
        has_sources = len(texts) == len(self.sources)
        return [
            {"source": self.sources[index] if has_sources else None, "text": texts[index]}
            for index in chosen
        ]

    def measure_texts(
        self, kind: str, name: str, make: Callable[[np.random.Generator], tuple[list[str], Any]]
    ) -> Row:
        """Measure texts that no generator wrote.

        Args:
            kind: What the row is.
            name: What it is called.
            make: Makes texts, and the records to measure them by in place of the evaluator's, or
                ``None``.
        """

        def measure() -> Row:
            figures, examples = [], []
            for seed in self.seeds:
                texts, records = make(np.random.default_rng(seed))
                evaluator = self.evaluator if records is None else self.evaluator.against(records)
                figures.append(evaluator(texts))
                examples = examples or self.examples(texts)
            return {"figures": average(figures), "examples": examples}

        settings = NO_SETTINGS | {"kind": kind, "name": name, "seeds": list(self.seeds)}
        return self.measure_once(settings, measure)

    def measure_references_and_controls(self) -> list[Row]:
        """Measure the rows that every table holds."""
        records = self.evaluator.records
        rows = [
            self.measure_texts(
                "reference",
                "reference text",
                lambda generator: reference_texts(records, self.held_out, generator),
            )
        ]
        for name, control in CONTROLS.items():
            rows.append(
                self.measure_texts(
                    "control",
                    name,
                    lambda generator, control=control: (
                        control(self.training_texts, len(records), generator),
                        None,
                    ),
                )
            )
        return rows

    def check_generator(
        self, pipeline: TextPipeline, options: GeneratorOptions
    ) -> list[SweepPoint]:
        """List the settings of a generator, its own values filled in, and write a text at each.

        So whatever a generator refuses is refused before anything is measured.

        Raises:
            ValueError: If a setting or a source does not do.
        """
        try:
            points: list[SweepPoint] = []
            pipeline.tokenize_prompts(self.sources)
            for point in options.points(self.seeds):
                resolved = fill_in(point, pipeline)
                check_sampling(pipeline, point.sampling)
                next(self.generate(pipeline, resolved, self.sources[:1], seed=0))
                if resolved not in points:
                    points.append(resolved)
        except ValueError as error:
            raise ValueError(f"Generator `{options.name}`: {error}") from error
        return points

    def generate(
        self, pipeline: TextPipeline, point: SweepPoint, sources: list[str | None], seed: int
    ) -> Any:
        """Generate one text a source, batch by batch."""
        return generate_rows(
            pipeline,
            sources,
            **point.options(),
            seed=seed,
            batch_size=self.batch_size,
            precision=self.precision,
        )

    def describe_generator(
        self, pipeline: TextPipeline, options: GeneratorOptions
    ) -> dict[str, Any]:
        """Describe a generator, with its likelihood where it has one."""

        def measure() -> Row:
            described = describe_pipeline(pipeline)
            if self.num_likelihood_draws:
                described["likelihood"] = measure_likelihood(
                    pipeline, self.evaluator.records, self.num_likelihood_draws, batch_size=16
                )
            return described

        settings = {
            "generator": options.name,
            "weights": digest_pipeline(options.pipeline),
            "num_likelihood_draws": self.num_likelihood_draws,
        }
        return self.measure_once(settings, measure)

    def measure_point(
        self, pipeline: TextPipeline, options: GeneratorOptions, point: SweepPoint, weights: str
    ) -> Row:
        """Measure texts and speed of a generator at one setting."""

        def measure() -> Row:
            stopwatch = Stopwatch(pipeline, self.sources, point, self.precision)
            stopwatch.time_batch(1, point.seeds[0])  # warms up
            batch_size = stopwatch.find_saturated_batch(self.timing.batch_sizes)
            figures, examples = [], []
            for seed in point.seeds:
                batches = self.generate(pipeline, point, self.sources, seed)
                texts = [row.text for row in chain.from_iterable(batches)]
                speed = stopwatch.time_single(self.timing.num_rows, seed)
                if batch_size is not None:
                    speed |= stopwatch.time_saturated(batch_size, seed)
                figures.append(speed | self.evaluator(texts))
                examples = examples or self.examples(texts)
            return {
                "saturated_batch": batch_size,
                "figures": average(figures),
                "examples": examples,
            }

        settings = {"kind": "generator", "name": options.name, "weights": weights}
        settings |= asdict(point) | {"timing": asdict(self.timing)}
        row = self.measure_once(settings, measure)
        shown = {name: mean_of(row, name) for name in ("network_calls", "seconds_per_text", "bleu")}
        logger.info(
            "%s, %s: %s",
            options.name,
            describe_settings(row) or "own settings",
            ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None),
        )
        return row


def fill_in(point: SweepPoint, pipeline: TextPipeline) -> SweepPoint:
    """Replace what is left to the pipeline by the pipeline's own values."""
    own: dict[str, Any] = {
        "num_inference_steps": pipeline.default_num_inference_steps,
        "guidance_scale": pipeline.default_guidance_scale,
    }
    return replace(
        point, **{name: value for name, value in own.items() if getattr(point, name) is None}
    )


def spread_out(
    records: Sequence[TextRecord], max_rows: int | None
) -> tuple[list[TextRecord], list[TextRecord]]:
    """Choose records at equal distances, as data are often sorted.

    Returns:
        At most ``max_rows`` records, and the others.
    """
    num_rows = len(records) if max_rows is None else min(max_rows, len(records))
    chosen = {index * len(records) // num_rows for index in range(num_rows)}
    others = [record for index, record in enumerate(records) if index not in chosen]
    return [records[index] for index in sorted(chosen)], others
