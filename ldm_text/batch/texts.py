"""The work of ``ldm-text generate``: a source becomes texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from denoiser.schedulers import SchedulerName, make_scheduler, noise_shift_of
from ldm_text.batch.work import Outputs, RowError
from ldm_text.compilation import job_batch_sizes
from ldm_text.data.records import string_field
from ldm_text.generated_rows import Sampling, TextSettings, generate_batch
from ldm_text.labels import labelled_prompts, labels_of
from ldm_text.loading import TextPipeline, digest_pipeline, load_pipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import resolve_precision

ROW_FIELDS: dict[str, type] = {  # those of GeneratedRow
    "id": int,
    "source": str,
    "text": str,
    "sample": int,
    "seed": int,
    "num_inference_steps": int,
    "guidance_scale": float,
}


@dataclass(frozen=True)
class TextItem:
    """A prompt: its row, its text, and its length in tokens."""

    row: int
    source: str | None
    num_tokens: int


@dataclass(frozen=True)
class TextWorkOptions:
    """All that is needed to make the same work in another process.

    Attributes:
        pipeline: Folder of the pipeline.
        settings: How the texts are generated.
        num_samples: Texts for each row.
        source_field: Field of the source; ``None`` generates without sources.
        scheduler: Scheduler in place of a latent pipeline's own.
        compile_for: Texts of a batch to compile the networks for; ``None`` leaves them as they are.
    """

    pipeline: Path
    settings: TextSettings
    num_samples: int = 1
    source_field: str | None = None
    scheduler: SchedulerName | None = None
    compile_for: int | None = None

    def load(self) -> "TextWork":
        """Load the pipeline, and check the options against it.

        Raises:
            FileNotFoundError: If the folder or a part of it is missing.
            ValueError: If an option is out of range or without effect.
        """
        loaded = load_pipeline(self.pipeline)
        if self.scheduler is not None:
            set_scheduler(loaded, self.scheduler)
        settings = self.settings
        check_sampling(loaded, settings.sampling)
        steps: Any = settings.num_inference_steps
        if steps is None:
            steps = loaded.default_num_inference_steps
        loaded.check_inputs(
            [None],
            1,
            num_inference_steps=steps,
            guidance_scale=settings.guidance_scale,
            **settings.sampling or {},
        )
        if self.compile_for is not None:
            sizes = job_batch_sizes(self.compile_for, stops_early(settings.sampling))
            loaded.compile(sizes)
        precision = resolve_precision(settings.precision, loaded.device)
        return TextWork(loaded, replace(self, settings=replace(settings, precision=precision)))


def stops_early(sampling: Sampling | None) -> bool:
    """Tell whether options let texts end before their last step, each after calls of its own."""
    return (sampling or {}).get("stop_patience") is not None


class TextWork:
    """Write texts for the sources of rows.

    Args:
        pipeline: The generator, with the scheduler to use.
        options: What it was loaded by.
    """

    def __init__(self, pipeline: TextPipeline, options: TextWorkOptions) -> None:
        self.pipeline, self.options = pipeline, options
        self.num_samples = options.num_samples
        calls = {"num_network_calls": int} if stops_early(options.settings.sampling) else {}
        self.fields: Mapping[str, type] = ROW_FIELDS | calls

    def settings(self) -> dict[str, Any]:
        """Return weights, options and kind of device."""
        return asdict(self.options.settings) | {
            "verb": "generate",
            "weights": digest_pipeline(self.options.pipeline),
            "scheduler": self.options.scheduler,
            "compiled": self.options.compile_for is not None,
            "source_field": self.options.source_field,
            "device": self.pipeline.device.type,
        }

    def prepare(self, row: int, record: Mapping[str, Any], label: str | None = None) -> TextItem:
        """Take the source of a row, and count its tokens; ``label`` is written into it.

        Raises:
            RowError: If it is missing, no string, too long for the model, or without the label that
                the model wants.
        """
        if self.options.source_field is None:
            return self.item(row, None, label)
        try:
            if self.options.source_field not in record:
                there = ", ".join(map(repr, record))
                raise RowError(
                    f"no field `{self.options.source_field}`; the fields there are {there}. "
                    "`--source_field` names another one."
                )
            source = string_field(record, self.options.source_field)
        except ValueError as error:
            raise RowError(str(error)) from error
        return self.item(row, source, label)

    def item(self, row: int, source: str | None, label: str | None = None) -> TextItem:
        """Make the item of a row of its source and its label; see ``prepare``."""
        try:
            (source,) = labelled_prompts(labels_of(self.pipeline.config), [source], label)
            if source is None:
                return TextItem(row, None, 0)
            ids = self.pipeline.tokenize_prompts([source], self.options.settings.truncate)[0]
        except ValueError as error:
            raise RowError(str(error).replace("prompt[0]", "the prompt", 1)) from error
        return TextItem(row, source, len(ids))

    def to(self, device: torch.device) -> None:
        """Move the pipeline to a device."""
        self.pipeline.to(device)

    def length(self, item: TextItem) -> int:
        """Return the number of tokens of the source."""
        return item.num_tokens

    def run(self, batch: Sequence[tuple[TextItem, int]]) -> Outputs:
        """Generate a text for each item and sample number."""
        prompts = [item.source for item, _ in batch]
        slots = [(item.row, sample) for item, sample in batch]
        rows, output = generate_batch(self.pipeline, prompts, slots, self.options.settings)
        assert output.sequences is not None, "texts come with their tokens"
        # A pad token stands in place of the end token and of all behind it.
        num_tokens = int((output.sequences != self.pipeline.tokenizer.pad_token_id).sum())
        records = [asdict(row) for row in rows]
        if output.row_network_calls is not None:
            for record, num_calls in zip(records, output.row_network_calls, strict=True):
                record["num_network_calls"] = num_calls
        return Outputs(records, num_tokens)


def set_scheduler(pipeline: TextPipeline, name: SchedulerName) -> None:
    """Replace the scheduler of a latent pipeline.

    Raises:
        ValueError: If the pipeline has none, or its denoiser does not go with this one.
    """
    if not isinstance(pipeline, LatentTextPipeline):
        raise ValueError(
            f"`--scheduler` has no effect: {type(pipeline.token_model).__name__} has none; its "
            "options are given by `--sampling`."
        )
    if name == "flow_map" and not pipeline.denoiser.config.flow_map:
        raise ValueError(
            "`--scheduler flow_map` needs a student of FlowMapDistillation: this denoiser has no "
            "`flow_map`. Name another scheduler."
        )
    pipeline.scheduler = make_scheduler(name, noise_shift_of(pipeline.scheduler))


def check_sampling(pipeline: TextPipeline, sampling: Sampling | None) -> None:
    """Check the names of further options.

    Raises:
        ValueError: If the pipeline does not know one.
    """
    known = [name for name in pipeline.sampler_options if name != "guidance_scale"]
    for name in sampling or {}:
        if name not in known:
            raise ValueError(
                f"`--sampling.{name}` has no effect here: this pipeline takes "
                f"{', '.join(known) or 'none'}."
            )
