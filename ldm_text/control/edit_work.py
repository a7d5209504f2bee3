"""The work of ``ldm-text edit``: texts become others."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ldm_text.batch.texts import ROW_FIELDS, TextItem, TextWork, TextWorkOptions
from ldm_text.batch.work import Outputs, RowError
from ldm_text.control.edit import edit_texts
from ldm_text.control.edit_request import EditRequest, Span, known_of_edits, text_ids
from ldm_text.control.work import common_fields
from ldm_text.data.records import string_field
from ldm_text.loading import latent_pipeline
from ldm_text.tokenizer import encode_texts


@dataclass(frozen=True)
class EditItem(TextItem):
    """A text to change."""

    request: EditRequest


@dataclass(frozen=True)
class EditWorkOptions:
    """All that is needed to make the same work in another process.

    Attributes:
        text_work: Pipeline, steps, seed and the like.
        strength: Share of the way back to noise.
        text: One text for all rows, in place of ``text_field``.
        text_field: Field that holds the text of a row.
        source: One condition for all rows, in place of the source field.
        protect: Phrases whose occurrences stay.
        change: Phrases outside of whose occurrences all stays.
    """

    text_work: TextWorkOptions
    strength: float
    text: str | None = None
    text_field: str = "text"
    source: str | None = None
    protect: tuple[str, ...] = ()
    change: tuple[str, ...] = ()

    def load(self) -> "EditWork":
        """Load the pipeline, and check the options against it.

        Raises:
            FileNotFoundError: If a folder or a part of it is missing.
            ValueError: If an option is out of range or without effect.
        """
        work = self.text_work.load()
        edit_texts(work.pipeline, [EditRequest("a", self.source)], 0.0, work.options.settings)
        return EditWork(work, self)


class EditWork:
    """Change the texts of rows.

    Args:
        work: The work of plain generation, whose pipeline is used.
        options: What it was loaded by.
    """

    def __init__(self, work: TextWork, options: EditWorkOptions) -> None:
        self.text_work, self.edit = work, options
        self.pipeline, self.num_samples = latent_pipeline(work.pipeline, "edit"), work.num_samples
        self.fields: Mapping[str, type] = {
            **ROW_FIELDS,
            "original": str,
            "strength": float,
            "changed": float,
        }

    def settings(self) -> dict[str, Any]:
        """Return weights, options and kind of device."""
        edit = {name: value for name, value in vars(self.edit).items() if name != "text_work"}
        return self.text_work.settings() | {"verb": "edit", "edit": edit}

    def prepare(self, row: int, record: Mapping[str, Any]) -> EditItem:
        """Take the text of a row and its condition, and check that the edit is possible.

        Raises:
            RowError: If it is not.
        """
        item, options = self.text_work.prepare(row, record), self.edit
        try:
            text = options.text
            if text is None:
                text = string_field(record, options.text_field)
            spans = [find_all(text, phrases) for phrases in (options.protect, options.change)]
            source = item.source if options.source is None else options.source
            request = EditRequest(text, source, *spans, row=row)
            known_of_edits(self.pipeline, [request], [text_ids(self.pipeline, text)])
        except ValueError as error:
            raise RowError(str(error)) from error
        return EditItem(row, source, len(text), request)

    def to(self, device: torch.device) -> None:
        """Move the pipeline to a device."""
        self.pipeline.to(device)

    def length(self, item: EditItem) -> int:
        """Return the number of characters of the text."""
        return item.num_tokens

    def run(self, batch: Sequence[tuple[EditItem, int]]) -> Outputs:
        """Change the text of each item."""
        requests = [replace(item.request, sample=sample) for item, sample in batch]
        edited = edit_texts(
            self.pipeline, requests, self.edit.strength, self.text_work.options.settings
        )
        records = [
            common_fields(self.text_work, item, sample, text.text)
            | {
                "original": item.request.text,
                "strength": self.edit.strength,
                "changed": round(text.changed, 4),
            }
            for (item, sample), text in zip(batch, edited, strict=True)
        ]
        rows = encode_texts(self.pipeline.tokenizer, [text.text for text in edited])
        return Outputs(records, sum(map(len, rows)))


def find_all(text: str, phrases: Sequence[str]) -> tuple[Span, ...]:
    """Find where phrases stand in a text, all of their occurrences.

    Raises:
        ValueError: If a phrase does not stand in it.
    """
    spans: list[Span] = []
    for phrase in phrases:
        found = [match.span() for match in re.finditer(re.escape(phrase), text) if phrase]
        if not found:
            raise ValueError(f"{phrase!r} does not stand in {text[:60]!r}.")
        spans += found
    return tuple(spans)
