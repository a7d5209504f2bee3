"""Tokenize a data set into a cache folder: in little memory, and once, whoever is interrupted."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from ldm_text.data.growing_array import GrowingArray
from ldm_text.data.length_policy import LengthPolicy, TokenRow
from ldm_text.data.records import TextRecord
from ldm_text.data.sole_builder import sole_builder
from ldm_text.data.token_cache import META
from ldm_text.source_fields import SourceFields
from ldm_text.tokenizer import encode_texts

MAX_BATCH_RECORDS = 1024
MAX_BATCH_CHARACTERS = 1 << 22
BATCHES_PER_SAVE = 64  # after so many an interrupted tokenization goes on
PROGRESS = "progress.json"
COUNTS = ("num_dropped", "num_truncated", "num_split")

logger = logging.getLogger(__name__)


def build_token_cache(
    folder: Path,
    records: Iterable[TextRecord],
    tokenizer: PreTrainedTokenizerFast,
    policy: LengthPolicy,
    name: str,
    fields: SourceFields | None = None,
) -> None:
    """Tokenize records into a folder that appears only when it is complete.

    The tokenizers library uses all cores for a batch, while a thread reads the next one. A process
    that finds another one at the same folder waits for it; if that one dies, it goes on from there.

    Args:
        folder: Folder to create; its name is a hash of the records and options.
        records: Records to tokenize.
        tokenizer: Tokenizer to use.
        policy: What to do with long texts.
        name: Names the data in messages.
        fields: How fields of sources are padded; by default they have none.

    Raises:
        ValueError: If no row remains, or a text is too long for the policy.
    """
    with sole_builder(folder) as partial:
        if folder.is_dir():
            return
        try:
            _build(partial, records, tokenizer, policy, name, fields or SourceFields())
        except ValueError:
            shutil.rmtree(partial, ignore_errors=True)  # other data or options have another name
            raise
        partial.rename(folder)


def _build(
    folder: Path,
    records: Iterable[TextRecord],
    tokenizer: PreTrainedTokenizerFast,
    policy: LengthPolicy,
    name: str,
    fields: SourceFields,
) -> None:
    """Write the files of a cache, from the place that an earlier process came to."""
    progress = _read_progress(folder)
    folder.mkdir(exist_ok=True)
    for count in COUNTS:
        setattr(policy, count, progress.get(count, 0))
    num_records = progress.get("num_records", 0)
    if num_records:
        logger.info("Going on after record %d, where tokenizing was interrupted.", num_records)
    remaining = islice(iter(records), num_records, None)
    with contextlib.ExitStack() as files:
        columns = _Columns(files, folder, tokenizer, progress)
        for number, batch in enumerate(_read_ahead(remaining), start=1):
            columns.append(*_tokenize(batch, tokenizer, policy, name, num_records, fields))
            num_records += len(batch)
            if number % BATCHES_PER_SAVE == 0:
                counts = {count: getattr(policy, count) for count in COUNTS}
                columns.sync()
                _write_progress(folder, columns.sizes() | counts | {"num_records": num_records})
        num_rows = columns.arrays["text_offsets"].num_rows - 1
        columns.sync()
    if num_rows == 0:
        raise ValueError(
            f"{name} leaves no rows: {policy.num_dropped} records were too long and dropped."
        )
    for path in [folder / f"source_{part}.npy" for part in ("ids", "offsets")]:
        if not columns.has_sources:
            path.unlink()
    if not columns.has_labels:
        (folder / "labels.npy").unlink()
    (folder / META).write_text(json.dumps({"name": name, **asdict(policy)}, indent=1))
    (folder / PROGRESS).unlink(missing_ok=True)


class _Columns:
    """The growing files of texts, sources and labels."""

    def __init__(
        self,
        files: contextlib.ExitStack,
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        progress: dict[str, int],
    ) -> None:
        id_type = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
        types = {"ids": np.dtype(id_type), "offsets": np.dtype(np.int64)}
        self.arrays = {
            f"{column}_{part}": files.enter_context(
                GrowingArray(
                    folder / f"{column}_{part}.npy",
                    dtype,
                    num_rows=progress.get(f"{column}_{part}", 0),
                )
            )
            for column in ("text", "source")
            for part, dtype in types.items()
        }
        self.arrays["labels"] = files.enter_context(
            GrowingArray(
                folder / "labels.npy", np.dtype(np.int32), num_rows=progress.get("labels", 0)
            )
        )
        for column in ("text", "source"):
            if not self.arrays[f"{column}_offsets"].num_rows:
                self.arrays[f"{column}_offsets"].append(np.zeros(1, np.int64))

    @property
    def has_sources(self) -> bool:
        """Whether any row has had a source."""
        return self.arrays["source_offsets"].num_rows > 1

    @property
    def has_labels(self) -> bool:
        """Whether any row has had a label."""
        return self.arrays["labels"].num_rows > 0

    def append(self, rows: list[TokenRow], labels: list[int | None]) -> None:
        """Write rows and their labels behind the others."""
        self._append("text", [text_ids for text_ids, _ in rows])
        self._append("source", [source_ids for _, source_ids in rows if source_ids is not None])
        known = [label for label in labels if label is not None]
        self.arrays["labels"].append(np.array(known, np.int32))

    def _append(self, column: str, sequences: list[list[int]]) -> None:
        ids, offsets = self.arrays[f"{column}_ids"], self.arrays[f"{column}_offsets"]
        ends = ids.num_rows + np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
        for sequence in sequences:
            ids.append(np.array(sequence, ids.dtype))
        offsets.append(ends)

    def sync(self) -> None:
        """Bring all files to the disk."""
        for array in self.arrays.values():
            array.sync()

    def sizes(self) -> dict[str, int]:
        """Return how many rows each file has."""
        return {name: array.num_rows for name, array in self.arrays.items()}


def _read_progress(folder: Path) -> dict[str, int]:
    """Return where an interrupted tokenization was; nothing if that cannot be read."""
    try:
        progress = json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


def _write_progress(folder: Path, progress: dict[str, int]) -> None:
    partial = folder / f"{PROGRESS}.partial"
    with partial.open("w") as file:
        json.dump(progress, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / PROGRESS)


def _read_ahead(records: Iterator[TextRecord]) -> Iterator[list[TextRecord]]:
    """Yield batches of few records and few characters; a thread reads one batch ahead."""

    def read() -> list[TextRecord]:
        batch: list[TextRecord] = []
        num_characters = 0
        for record in islice(records, MAX_BATCH_RECORDS):
            batch.append(record)
            num_characters += len(record.text) + len(record.source or "")
            if num_characters > MAX_BATCH_CHARACTERS:
                break
        return batch

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read)
        while batch := ahead.result():
            ahead = reader.submit(read)
            yield batch


def _tokenize(
    batch: list[TextRecord],
    tokenizer: PreTrainedTokenizerFast,
    policy: LengthPolicy,
    name: str,
    num_before: int,
    fields: SourceFields,
) -> tuple[list[TokenRow], list[int | None]]:
    """Return the rows of a batch of records, and the label of each row."""
    texts = encode_texts(tokenizer, [record.text for record in batch])
    sources: list[list[int] | None] = [None] * len(batch)
    if batch[0].source is not None:
        sources = list(fields.encode(tokenizer, [record.source or "" for record in batch]))
    rows: list[TokenRow] = []
    labels: list[int | None] = []
    for number, ids in enumerate(zip(texts, sources, strict=True), start=num_before + 1):
        rows += policy.apply(*ids, f"{name}, record {number}")
        labels += [batch[number - num_before - 1].label] * (len(rows) - len(labels))
    return rows, labels
