"""Map-style datasets that return whole batches: one array look-up a batch, not one a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm_text.data.packing import PackedRows
from ldm_text.data.read_ahead import ReadAhead, present, reader_of, rows_reader
from ldm_text.data.token_cache import TokenCache, TokenColumn

Batch = dict[str, Tensor]


class RecordRows(Dataset):
    """One record a row: text, end token, padding; the source in tensors of its own.

    Args:
        cache: The tokenized rows.
        max_length_tokens: Length of a row, ``S``.
        max_source_length_tokens: Length of a source row.
        pad_token_id: Id after the end token.
        end_token_id: Id after the text.
    """

    def __init__(
        self,
        cache: TokenCache,
        *,
        max_length_tokens: int,
        max_source_length_tokens: int,
        pad_token_id: int,
        end_token_id: int,
    ) -> None:
        self.cache = cache
        self.max_length_tokens = max_length_tokens
        self.max_source_length_tokens = max_source_length_tokens
        self.pad_token_id = pad_token_id
        self.end_token_id = end_token_id

    @property
    def fingerprint(self) -> str:
        """Content of the rows: two data sets of one fingerprint hold the same tokens."""
        return f"{self.cache.key} {self.max_length_tokens} {self.max_source_length_tokens}"

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return ``input_ids`` and ``attention_mask``, those of the source, ``label``, ``row``."""
        index = np.asarray(rows, np.int64)
        input_ids, attention_mask = self._gather(self.cache.text, index, self.max_length_tokens)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.cache.source is not None:
            batch["source_ids"], batch["source_mask"] = self._gather(
                self.cache.source, index, self.max_source_length_tokens
            )
        if self.cache.labels is not None:
            batch["label"] = torch.from_numpy(self.cache.labels[index].astype(np.int64))
        batch["row"] = torch.from_numpy(index)
        return batch

    def read_ahead_stages(self) -> list[list[ReadAhead]]:
        """Return what has the system read rows of mapped files: their places, then their ids."""
        columns = [self.cache.text] + ([] if self.cache.source is None else [self.cache.source])
        places = [rows_reader(column.offsets, 2) for column in columns]
        return [present(places), present(map(column_reader, columns))]

    def _gather(self, column: TokenColumn, index: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        starts = column.offsets[index][:, None]
        ends = column.offsets[index + 1][:, None]
        positions = starts + np.arange(length)
        ids = np.full(positions.shape, self.pad_token_id, np.int64)
        is_text = positions < ends
        ids[is_text] = column.ids[positions[is_text]]
        ids[positions == ends] = self.end_token_id
        is_real = (ids != self.pad_token_id) | (positions == ends)  # fields may be padded
        return torch.from_numpy(ids), torch.from_numpy(is_real)


def column_reader(column: TokenColumn) -> ReadAhead | None:
    """Return a reader of the ids of rows."""
    read = reader_of(column.ids)
    if read is None:
        return None

    def read_rows(rows: Sequence[int]) -> None:
        index = np.asarray(rows, np.int64)
        read(column.offsets[index], column.offsets[index + 1])

    return read_rows


class PackedBatches(Dataset):
    """Rows of several documents.

    Args:
        packed: The rows.
        pad_token_id: Id that marks positions without a token.
    """

    def __init__(self, packed: PackedRows, *, pad_token_id: int) -> None:
        self.packed = packed
        self.pad_token_id = pad_token_id

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return ``input_ids``, ``attention_mask`` ``(B, S)`` and ``document_ids`` ``(B, L)``."""
        index = np.asarray(rows, np.int64)
        input_ids = torch.from_numpy(self.packed.input_ids[index].astype(np.int64))
        return {
            "input_ids": input_ids,
            "attention_mask": input_ids != self.pad_token_id,
            "document_ids": torch.from_numpy(self.packed.document_ids[index].astype(np.int64)),
        }

    def read_ahead_stages(self) -> list[list[ReadAhead]]:
        """Return what has the system read rows of mapped files."""
        return [present(map(rows_reader, (self.packed.input_ids, self.packed.document_ids)))]


def keep_batch(batch: Any) -> Any:
    """Return the batch as it is: the datasets above collate by themselves."""
    return batch
