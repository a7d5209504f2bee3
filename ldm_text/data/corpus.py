"""What to train on: files, fields and how validation records are set apart."""

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from typing import Literal

from ldm_text.data.labels import RecordLabels
from ldm_text.data.readers import data_fingerprint
from ldm_text.data.records import TextRecord, read_records
from ldm_text.source_fields import SourceFields


class Corpus:
    """A training set and a validation set of text records.

    Args:
        train: Training data: a ``.jsonl``, ``.txt`` (also ``.gz``, ``.xz``, ``.zst``) or
            ``.parquet`` file, a folder of the ``datasets`` library, ``hub:owner/name[:config]``
            or ``excerpt:NAME``.
        validation: Validation data, given like ``train``. None holds out a part of ``train``.
        validation_fraction: Share of ``train`` to hold out, used where ``validation`` is None.
            A hash decides, so that a record stays on its side when others are added: that of its
            source, so that all texts of a source are on one side, or of its text where it has
            none. A label is no source of its own.
        text_field: Field that holds the text to model.
        source_field: Field that holds the text to condition on; None for none.
        source_separator: What stands at the end of a field of a source, such as ``],``: each field
            then begins with a latent of its own, and what is padded before it counts as length.
            Both stages need the same; baselines, which see tokens, lose the padding again.
        labels: Where the labels of the texts are: ``LabelField`` or ``TextFieldLabels``. A label is
            written into the source, as its first line; None for none.
        generated: Texts that a teacher wrote for the training sources, a file of ``ldm-text
            generate``: to train on them is sequence-level distillation (Kim and Rush 2016). Where a
            part of ``train`` is held out, those for its sources are left aside.
        train_on: Train on the texts of ``train``, on the ``generated`` ones, or on both.
        train_split: Split to read where ``train`` is a dataset folder or on the hub.
        validation_split: Split to read where ``validation`` is a dataset folder or on the hub.
    """

    def __init__(
        self,
        train: str,
        *,
        validation: str | None = None,
        validation_fraction: float = 0.02,
        text_field: str = "text",
        source_field: str | None = None,
        source_separator: str | None = None,
        labels: RecordLabels | None = None,
        generated: str | None = None,
        train_on: Literal["train", "generated", "both"] = "train",
        train_split: str = "train",
        validation_split: str = "validation",
    ) -> None:
        if not 0 < validation_fraction < 1:
            raise ValueError(
                f"`validation_fraction` must be between 0 and 1, got {validation_fraction}."
            )
        if (generated is None) != (train_on == "train"):
            raise ValueError(
                '`train_on` must be "generated" or "both" where `generated` names a file, and '
                f'"train" where it does not, got "{train_on}".'
            )
        if generated is not None and source_field is None:
            raise ValueError("`generated` needs a `source_field`: a teacher writes for sources.")
        if generated is not None and labels is not None:
            raise ValueError("`generated` excludes `labels`: a teacher's texts have none.")
        if source_separator is not None and source_field is None:
            raise ValueError(
                f"`source_separator` needs a `source_field`, got {source_separator!r} without one."
            )
        SourceFields(source_separator)  # checks it
        self.train = train
        self.validation = validation
        self.validation_fraction = validation_fraction
        self.text_field = text_field
        self.source_field = source_field
        self.source_separator = source_separator
        self.labels = labels
        self.generated = generated
        self.train_on = train_on
        self.train_split = train_split
        self.validation_split = validation_split

    def train_records(self) -> Iterator[TextRecord]:
        """Stream the training records.

        Those held out are left aside, and so are the generated ones for their sources.
        """
        parts = []
        if self.train_on != "generated":
            records = self._read(self.train, self.train_split)
            if self.validation is None:
                records = (record for record in records if not self._is_held_out(record))
            parts.append(records)
        if self.generated is not None:
            parts.append(self._generated_records(self.generated))
        return chain.from_iterable(parts)

    def validation_records(self) -> Iterator[TextRecord]:
        """Stream the validation records: a file of their own, or those held out."""
        if self.validation is not None:
            return self._read(self.validation, self.validation_split)
        records = self._read(self.train, self.train_split)
        return (record for record in records if self._is_held_out(record))

    def train_fingerprint(self) -> str:
        """Return a string that changes whenever the training records may have changed."""
        fingerprint = self._fingerprint(self.train, self.train_split, "train")
        if self.generated is None:
            return fingerprint
        return json.dumps([fingerprint, data_fingerprint(self.generated), self.train_on])

    def validation_fingerprint(self) -> str:
        """Return a string that changes whenever the validation records may have changed."""
        if self.validation is not None:
            return self._fingerprint(self.validation, self.validation_split, "all")
        return self._fingerprint(self.train, self.train_split, "held out")

    def _read(self, data: str, split: str) -> Iterator[TextRecord]:
        return read_records(
            data,
            text_field=self.text_field,
            source_field=self.source_field,
            labels=self.labels,
            split=split,
        )

    def _generated_records(self, generated: str) -> Iterator[TextRecord]:
        held_out: set[str | None] = set()
        if self.validation is None:
            held_out = {record.source for record in self.validation_records() if record.source}
        for record in read_records(generated, text_field="text", source_field="source"):
            if record.source not in held_out:
                yield record

    def _fingerprint(self, data: str, split: str, part: str) -> str:
        # The kind of file decides how its bytes are read, hence the name's suffixes.
        fields = [data_fingerprint(data, split=split), data.rpartition("/")[2].partition(".")[2]]
        fields += [self.text_field, str(self.source_field)]
        if self.labels is not None:
            fields += [json.dumps(self.labels.content)]
        if self.validation is None:
            fields += [part, str(self.validation_fraction)]
        return json.dumps(fields)

    def _is_held_out(self, record: TextRecord) -> bool:
        source = record.source or ""
        if record.label is not None:
            source = source.partition("\n")[2]  # behind the line of the label
        content = f"{source}\0" if source else f"\0{record.text}"
        share = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8]) / 2**64
        return share < self.validation_fraction
