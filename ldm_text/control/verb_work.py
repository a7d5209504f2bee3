"""The work of ``ldm-text variations``, ``interpolate`` and ``refine``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ldm_text.batch.texts import ROW_FIELDS, TextItem, TextWork, TextWorkOptions
from ldm_text.batch.work import Outputs, Record, RowError
from ldm_text.control.edit import check_call
from ldm_text.control.edit_request import text_ids
from ldm_text.control.verbs import Verb
from ldm_text.control.work import common_fields
from ldm_text.data.records import string_field
from ldm_text.loading import latent_pipeline
from ldm_text.tokenizer import encode_texts


@dataclass(frozen=True)
class VerbItem(TextItem):
    """The texts of a row."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class VerbWorkOptions:
    """All that is needed to make the same work in another process.

    Attributes:
        text_work: Pipeline, steps, seed and the like.
        verb: What is made of the texts.
        texts: The texts of all rows, in place of ``text_fields``.
        text_fields: Fields that hold the texts of a row, one for each input of the verb.
        source: One condition for all rows, in place of the source field.
    """

    text_work: TextWorkOptions
    verb: Verb
    texts: tuple[str, ...] | None
    text_fields: tuple[str, ...]
    source: str | None = None

    def load(self) -> "VerbWork":
        """Load the pipeline, and check the options against it.

        Raises:
            FileNotFoundError: If a folder or a part of it is missing.
            ValueError: If an option is out of range or without effect.
        """
        work = self.text_work.load()
        pipeline = latent_pipeline(work.pipeline, self.verb.name)
        check_call(pipeline, [self.source], work.options.settings)
        return VerbWork(work, self)


class VerbWork:
    """Make texts of the texts of rows.

    Args:
        work: The work of plain generation, whose pipeline is used.
        options: What it was loaded by.
    """

    def __init__(self, work: TextWork, options: VerbWorkOptions) -> None:
        self.text_work, self.options, self.verb = work, options, options.verb
        self.pipeline = latent_pipeline(work.pipeline, self.verb.name)
        self.num_samples = self.verb.num_samples
        self.fields: Mapping[str, type] = ROW_FIELDS | self.verb.fields
        self.last: dict[VerbItem, list[Record]] = {}  # a row's samples may lie in several batches

    def settings(self) -> dict[str, Any]:
        """Return weights, options and kind of device."""
        return self.text_work.settings() | {
            "verb": self.verb.name,
            "options": vars(self.verb),
            "texts": self.options.texts,
            "text_fields": self.options.text_fields,
            "source": self.options.source,
        }

    def prepare(self, row: int, record: Mapping[str, Any]) -> VerbItem:
        """Take the texts of a row and their condition, and check that the model has such texts.

        Raises:
            RowError: If it has not.
        """
        options = self.options
        item = self.text_work.prepare(row, record)
        source = item.source if options.source is None else options.source
        try:
            texts = options.texts
            if texts is None:
                texts = tuple(string_field(record, field) for field in options.text_fields)
            num_tokens = sum(len(text_ids(self.pipeline, text)) for text in texts)
        except ValueError as error:
            raise RowError(str(error)) from error
        return VerbItem(row, source, num_tokens, texts)

    def to(self, device: torch.device) -> None:
        """Move the pipeline to a device."""
        self.pipeline.to(device)

    def length(self, item: VerbItem) -> int:
        """Return the number of tokens of the texts."""
        return item.num_tokens

    def run(self, batch: Sequence[tuple[VerbItem, int]]) -> Outputs:
        """Make the texts of each item, and take those of the sample numbers asked for."""
        settings = self.text_work.options.settings
        records = []
        for item, sample in batch:
            if item not in self.last:
                made = self.verb.run(self.pipeline, item.texts, item.source, settings, item.row)
                self.last = {item: made}
            record = self.last[item][sample]
            records.append(common_fields(self.text_work, item, sample, record["text"]) | record)
        rows = encode_texts(self.pipeline.tokenizer, [record["text"] for record in records])
        return Outputs(records, sum(map(len, rows)))
