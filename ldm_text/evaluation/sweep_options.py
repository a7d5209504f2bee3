"""What ``ldm-text compare`` reads from YAML: generators, and the settings each is measured at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ldm_text.generated_rows import Sampling

SamplingValue = int | float | bool | str


def check_once(name: str, values: Sequence[Any]) -> None:
    """Refuse a value that is there twice: its rows would double, its seeds count as independent.

    Raises:
        ValueError: If there is such a value.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must hold each value once, got {list(values)}.")


@dataclass(frozen=True)
class SweepPoint:
    """One setting of a generator.

    Attributes:
        num_inference_steps: Steps; ``None`` where there is nothing to choose.
        guidance_scale: Guidance scale; ``None`` where there is no guidance.
        sampling: Further options of the sampler by name.
        seeds: Seeds to average over; they are no part of what the point is called.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    sampling: Sampling
    seeds: tuple[int, ...]

    def options(self) -> dict[str, Any]:
        """Return the options of ``generate_rows``."""
        return {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "sampling": self.sampling,
        }


@dataclass(frozen=True)
class SweepOptions:
    """Settings of a generator: every combination of the values.

    Args:
        num_inference_steps: Numbers of steps; null is the pipeline's own.
        guidance_scale: Guidance scales; null is the pipeline's own.
        sampling: A list of values for each further option of the pipeline's sampler, such as
            ``temperature: [0.5, 1.0]``.
        seeds: Seeds of these settings in place of those of all.
    """

    num_inference_steps: tuple[int | None, ...] = (None,)
    guidance_scale: tuple[float | None, ...] = (None,)
    sampling: dict[str, tuple[SamplingValue, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None

    def points(self, seeds: Sequence[int]) -> list[SweepPoint]:
        """List the combinations.

        Args:
            seeds: Seeds where there are none of its own.

        Raises:
            ValueError: If there are no values for an option, or a value twice.
        """
        axes = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }
        chosen = tuple(seeds) if self.seeds is None else self.seeds
        for name, values in {**axes, **self.sampling, "seeds": chosen}.items():
            if not values:
                raise ValueError(f"`{name}` must hold at least one value, got none.")
            check_once(name, values)
        if min(chosen) < 0:
            raise ValueError(f"`seeds` must all be 0 or larger, got {chosen}.")
        samplings = [
            dict(zip(self.sampling, values, strict=True))
            for values in product(*self.sampling.values())
        ]
        settings = product(self.num_inference_steps, self.guidance_scale, samplings)
        return [SweepPoint(*setting, chosen) for setting in settings]


@dataclass(frozen=True)
class GeneratorOptions:
    """A generator of the comparison.

    Args:
        name: What tables and plots call it.
        pipeline: Folder of the pipeline.
        sweeps: Settings to measure, one sweep after the other; null is the pipeline's own setting.
    """

    name: str
    pipeline: Path
    sweeps: tuple[SweepOptions, ...] | None = None

    def points(self, seeds: Sequence[int]) -> list[SweepPoint]:
        """List all settings, each once.

        Args:
            seeds: Seeds where a sweep has none of its own.

        Raises:
            ValueError: If there are none, or a sweep has no values for an option.
        """
        sweeps = (SweepOptions(),) if self.sweeps is None else self.sweeps
        points = [point for sweep in sweeps for point in sweep.points(seeds)]
        if not points:
            raise ValueError("`sweeps` must hold at least one sweep, got none.")
        return [point for index, point in enumerate(points) if point not in points[:index]]


@dataclass(frozen=True)
class BenchOptions(GeneratorOptions):
    """A generator that is only timed.

    Args:
        name: What tables call it.
        pipeline: Folder of the pipeline.
        sweeps: Settings to time, one sweep after the other; null is the pipeline's own setting.
        compile: Compile its networks, of a latent pipeline.
    """

    compile: bool = False

    def points(self, seeds: Sequence[int]) -> list[SweepPoint]:
        """List all settings, each once.

        Raises:
            ValueError: As for any generator, or if a sweep has seeds.
        """
        if any(sweep.seeds is not None for sweep in self.sweeps or ()):
            raise ValueError("`seeds` has no effect on what is timed, leave it out of `sweeps`.")
        return super().points(seeds)


def describe_settings(row: dict[str, Any]) -> str:
    """Say in a few words at which settings a row of the table was measured."""
    parts = []
    if row.get("num_inference_steps") is not None:
        parts.append(f"{row['num_inference_steps']} steps")
    if row.get("guidance_scale") not in (None, 1.0):
        parts.append(f"guidance {row['guidance_scale']:g}")
    for name, value in (row.get("sampling") or {}).items():
        shown = f"{value:g}" if type(value) is float else str(value)
        parts.append(f"{name} {shown}")
    return ", ".join(parts)
