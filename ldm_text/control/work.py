"""The work of ``generate`` with control and of ``infill``: rows become texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from denoiser.guiders import weak_denoiser_of
from ldm_text.batch.texts import TextItem, TextWork, TextWorkOptions
from ldm_text.batch.work import Outputs, Record, RowError
from ldm_text.control.candidates import WriteOptions
from ldm_text.control.options import ControlOptions
from ldm_text.control.request import TextRequest, around_gap
from ldm_text.control.template import Gap, parse_template
from ldm_text.control.write import plan_request, write_or_reject
from ldm_text.data.records import string_field
from ldm_text.loading import digest_pipeline
from ldm_text.pipeline import LatentTextPipeline


@dataclass(frozen=True)
class ControlledItem(TextItem):
    """A prompt, and what is asked of its text."""

    request: TextRequest
    template: str | None = None


@dataclass(frozen=True)
class ControlledWorkOptions:
    """All that is needed to make the same work in another process.

    Attributes:
        text: Pipeline, steps, seed and the like.
        control: Known text, lengths, constraints, guidance.
        template: One template for all rows, in place of ``template_field``.
        template_field: Field that holds the template of a row.
        source: One source for all rows, in place of the source field.
    """

    text: TextWorkOptions
    control: ControlOptions
    template: str | None = None
    template_field: str | None = None
    source: str | None = None

    def load(self) -> "ControlledTextWork":
        """Load the pipeline, and check the options against it.

        Raises:
            FileNotFoundError: If a folder or a part of it is missing.
            ValueError: If an option is out of range or without effect.
        """
        self.check_choice()
        work = self.text.load()
        self.control.check_trace(work.pipeline)
        self.control.check_label(work.pipeline)
        self.control.set_guider(work.pipeline, self.text.settings.guidance_scale)
        return ControlledTextWork(work, self)

    def check_choice(self) -> None:
        """Refuse a choice by agreement where it is known that no text has two candidates.

        Raises:
            ValueError: If that is so.
        """
        control = self.control
        if control.choose_by == "score" or control.num_candidates > 1:
            return
        if self.template_field is not None or control.suffix_field is not None:
            return  # its rows may have gaps of several lengths
        parts = around_gap(control.prefix, control.suffix)
        if self.template is not None:
            parts = tuple(parse_template(self.template))
        if not any(isinstance(part, Gap) and not part.is_fixed for part in parts[:-1]):
            raise ValueError(
                "`--control.choose_by agreement` has no effect: there is one candidate of each "
                "text. Raise `--control.num_candidates`."
            )


class ControlledTextWork:
    """Write texts with known parts and constraints for the rows of a job.

    Args:
        work: The work of plain generation, whose pipeline is used.
        options: What it was loaded by.
    """

    def __init__(self, work: TextWork, options: ControlledWorkOptions) -> None:
        self.text_work, self.controlled = work, options
        self.pipeline, self.num_samples = work.pipeline, work.num_samples
        self.write_options = WriteOptions(
            options.control.constraints(),
            options.control.num_candidates,
            choose_by=options.control.choose_by,
            settings=work.options.settings,
        )
        self.write_options.check()
        self.traced: tuple[int, int] | None = None  # row and sample of the text that is shown
        self.has_templates = options.template is not None or options.template_field is not None
        self.fields: Mapping[str, type] = {
            **work.fields,
            "num_tokens": int,
            "num_candidates": int,
            "score": float,
            **({"template": str} if self.has_templates else {}),
        }

    def settings(self) -> dict[str, Any]:
        """Return weights, options and kind of device."""
        weak = self.controlled.control.weak_pipeline
        return self.text_work.settings() | {
            "verb": "infill" if self.has_templates else "generate with control",
            "control": self.controlled.control.settings(),
            "weak_weights": None if weak is None else digest_pipeline(weak),
            "template": self.controlled.template,
            "template_field": self.controlled.template_field,
            "source": self.controlled.source,
        }

    def prepare(self, row: int, record: Mapping[str, Any]) -> ControlledItem:
        """Take source and known text of a row, and check that its text is possible.

        Raises:
            RowError: If it is not.
        """
        control, template, source = self.controlled.control, None, self.controlled.source
        try:
            label = control.label_of(record)
            if source is None:
                item = self.text_work.prepare(row, record, label)
            else:
                item = self.text_work.item(row, source, label)
            if self.has_templates:
                template = self.controlled.template
                if template is None:
                    template = string_field(record, str(self.controlled.template_field))
                parts = tuple(parse_template(template))
            else:
                parts = control.parts_of(record)
            request = TextRequest(parts, item.source, control.length_of(record), row)
            plan_request(self.pipeline, request, self.write_options)
        except ValueError as error:
            raise RowError(str(error)) from error
        return ControlledItem(row, item.source, item.num_tokens, request, template)

    def to(self, device: torch.device) -> None:
        """Move the pipeline to a device, and the weaker denoiser of its guider."""
        self.pipeline.to(device)
        if isinstance(self.pipeline, LatentTextPipeline):
            weak_denoiser = weak_denoiser_of(self.pipeline.guider)
            if weak_denoiser is not None:
                weak_denoiser.to(device)

    def length(self, item: ControlledItem) -> int:
        """Return the number of tokens of the source."""
        return item.num_tokens

    def run(self, batch: Sequence[tuple[ControlledItem, int]]) -> Outputs:
        """Write a text for each item and sample number."""
        requests = [replace(item.request, sample=sample) for item, sample in batch]
        if self.controlled.control.trace is not None:
            self.trace(self.controlled.control.trace, requests)
        written = write_or_reject(
            self.pipeline, requests, replace(self.write_options, batch_size=max(len(batch), 1))
        )
        records: list[Record | RowError] = []
        num_tokens = 0
        for (item, sample), text in zip(batch, written, strict=True):
            if isinstance(text, RowError):
                records.append(text)
                continue
            num_tokens += text.num_tokens
            record = common_fields(self.text_work, item, sample, text.text) | {
                "num_tokens": text.num_tokens,
                "num_candidates": text.num_candidates,
                "score": text.score,
            }
            if text.num_network_calls is not None:
                record["num_network_calls"] = text.num_network_calls
            records.append(record | ({"template": item.template} if self.has_templates else {}))
        return Outputs(records, num_tokens)

    def trace(self, path: Path, requests: Sequence[TextRequest]) -> None:
        """Write the page of the first of the requests, if it comes before the one that is shown.

        That is the first text of this run in the end: of a shard or of a job that goes on, too, and
        where rows are rejected. Rows come in the order of their lengths.
        """
        from ldm_text.control.trace import write_trace  # plots are slow to import

        first = min(requests, key=lambda request: (request.row, request.sample))
        place = (first.row, first.sample)
        if self.traced is None or place < self.traced:
            write_trace(path, self.pipeline, first, self.write_options)
            self.traced = place


def common_fields(work: TextWork, item: TextItem, sample: int, text: str) -> dict[str, Any]:
    """Write the fields that the records of all commands have."""
    settings = work.options.settings
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    return {
        "id": item.row,
        "source": item.source,
        "text": text,
        "sample": sample,
        "seed": settings.seed,
        "num_inference_steps": work.pipeline.default_num_inference_steps
        if steps is None
        else steps,
        "guidance_scale": work.pipeline.default_guidance_scale if scale is None else scale,
    }
