"""Chunks: what is read, processed and committed together.

A chunk holds a fixed number of slots, (row, sample) pairs in the order of the input, so that its
content does not depend on where a job was broken off or on which process works on it.
"""

import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from operator import itemgetter
from typing import Any

import torch

from denoiser.fixed_shapes import is_out_of_memory
from ldm_text.batch.columns import CarriedColumns
from ldm_text.batch.inputs import InputRow, InputRows
from ldm_text.batch.work import Outputs, Record, RowError, Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How the slots of a job are cut.

    Attributes:
        num_samples: Slots a row.
        chunk_slots: Slots a chunk; the last one may have fewer.
        first_slot: The job's first slot; not 0 for a later shard.
        end_slot: The slot behind its last, ``None`` for a stream.
    """

    num_samples: int
    chunk_slots: int
    first_slot: int = 0
    end_slot: int | None = None

    @property
    def num_slots(self) -> int | None:
        """Slots of the job, ``None`` for a stream."""
        return None if self.end_slot is None else self.end_slot - self.first_slot

    @property
    def num_chunks(self) -> int:
        """Chunks of a job whose end is known."""
        assert self.num_slots is not None, "a stream's end is not known"
        return -(-self.num_slots // self.chunk_slots)

    def slots_of(self, number: int) -> int:
        """Return how many slots a chunk of such a job has."""
        assert self.num_slots is not None, "a stream's end is not known"
        return min(self.chunk_slots, self.num_slots - number * self.chunk_slots)


@dataclass(frozen=True)
class Chunk:
    """Some slots, not yet looked into."""

    number: int
    slots: list[tuple[InputRow, int]]


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk.

    Attributes:
        number: The chunk's.
        num_slots: Its slots, rejected ones included.
        records: Output records in the order of the slots.
        rejects: ``id``, ``line`` and ``reason`` of each row that could not be used, told by the
            chunk that holds its first sample; and with ``sample`` of each text that could not be
            written.
        num_tokens: Tokens of all texts.
    """

    number: int
    num_slots: int
    records: list[Record]
    rejects: list[Record] = field(default_factory=list)
    num_tokens: int = 0


def read_chunks(
    source: InputRows, plan: Plan, first: int = 0, wanted: Container[int] | None = None
) -> Iterator[Chunk]:
    """Read the chunks of a job in order, no row ahead of the chunk that is asked for.

    Args:
        source: The rows.
        plan: How to cut them.
        first: Number of the chunk to begin with.
        wanted: Numbers of the chunks to yield, by default all.
    """
    start = plan.first_slot + first * plan.chunk_slots
    if plan.end_slot is not None and start >= plan.end_slot:
        return
    first_row = start // plan.num_samples
    slots = ((row, sample) for row in source.rows(first_row) for sample in range(plan.num_samples))
    end = None if plan.end_slot is None else plan.end_slot - first_row * plan.num_samples
    slots = islice(slots, start - first_row * plan.num_samples, end)
    for number in count(first):
        if not (chunk := list(islice(slots, plan.chunk_slots))):
            return
        if wanted is None or number in wanted:
            yield Chunk(number, chunk)


def check_row(
    work: Work, source: InputRows, columns: CarriedColumns, row: InputRow
) -> tuple[Any, Mapping[str, Any]]:
    """Look into a row.

    Returns:
        What the work makes of it, and the columns to carry through.

    Raises:
        RowError: If it cannot be used.
    """
    fields = source.parse(row)
    return work.prepare(row.number, fields), columns.of(fields)


def place_of(source: InputRows, row: InputRow) -> str:
    """Return how messages call a row."""
    return f"{source.name}, line {row.line}"


class ChunkRunner:
    """Turn chunks into results: check rows, form batches of like lengths, halve what is too large.

    Args:
        work: What to do.
        source: Where the rows come from.
        columns: Columns to carry through.
        batch_size: Slots that go through ``work.run`` together; halved for good when a batch does
            not fit into memory.
        reject: Collect rows that cannot be used instead of stopping.
        on_batch: Called with the number of slots that are done and of their tokens, batch by batch.
    """

    def __init__(
        self,
        work: Work,
        source: InputRows,
        columns: CarriedColumns,
        batch_size: int,
        *,
        reject: bool = False,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        self.work, self.source, self.columns = work, source, columns
        self.batch_size, self.reject, self.on_batch = batch_size, reject, on_batch

    def run(self, chunk: Chunk) -> ChunkResult:
        """Make the records of a chunk.

        Raises:
            ValueError: If a row cannot be used, or no text be written for it, and it is not to be
                rejected.
            MemoryError: If there is no memory for a single slot.
        """
        entries: list[tuple[Any, int]] = []
        carried: list[tuple[InputRow, Mapping[str, Any]]] = []
        rejects: list[Record] = []
        checked: Any = None
        known = -1
        for row, sample in chunk.slots:
            if row.number != known:
                known, checked = row.number, self._check(row)
            if not isinstance(checked, RowError):
                entries.append((checked[0], sample))
                carried.append((row, checked[1]))
            elif sample == 0:
                rejects.append({"id": row.number, "line": row.line, "reason": str(checked)})
        if self.on_batch is not None and len(entries) < len(chunk.slots):
            self.on_batch(len(chunk.slots) - len(entries), 0)
        made, num_tokens = self._run_by_length(entries)
        records: list[Record] = []
        for record, (_, sample), (row, columns) in zip(made, entries, carried, strict=True):
            if not isinstance(record, RowError):
                records.append({**record, **columns})
            elif self.reject:
                place = {"id": row.number, "line": row.line, "sample": sample}
                rejects.append({**place, "reason": str(record)})
            else:
                raise ValueError(f"{place_of(self.source, row)}: {record}") from record
        rejects.sort(key=itemgetter("id"))
        return ChunkResult(chunk.number, len(chunk.slots), records, rejects, num_tokens)

    def _check(self, row: InputRow) -> tuple[Any, Mapping[str, Any]] | RowError:
        try:
            return check_row(self.work, self.source, self.columns, row)
        except RowError as error:
            if not self.reject:
                raise ValueError(f"{place_of(self.source, row)}: {error}") from error
            return error

    def _run_by_length(
        self, entries: Sequence[tuple[Any, int]]
    ) -> tuple[list[Record | RowError], int]:
        """Run entries in batches of like lengths, the longest first: it shows if all fit."""
        order = sorted(range(len(entries)), key=lambda i: -self.work.length(entries[i][0]))
        records: list[Record | RowError] = [{}] * len(entries)
        num_tokens = start = 0
        while start < len(order):
            places = order[start : start + self.batch_size]
            outputs = self._run_or_halve([entries[place] for place in places])
            if outputs is None:
                continue
            for place, record in zip(places, outputs.records, strict=True):
                records[place] = record
            start += len(places)
            num_tokens += outputs.num_tokens
            if self.on_batch is not None:
                self.on_batch(len(places), outputs.num_tokens)
        return records, num_tokens

    def _run_or_halve(self, batch: list[tuple[Any, int]]) -> Outputs | None:
        """Run a batch; if there is no memory for it, halve the batch size and return nothing."""
        try:
            return self.work.run(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            if len(batch) == 1:
                raise MemoryError(f"There is no memory for a single row: {reason}") from error
        # Only here, outside the handler, have the tensors of the failed batch been let go.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.batch_size = len(batch) // 2
        logger.warning("Out of memory, going on with batches of %d: %s", self.batch_size, reason)
        return None
