"""Jobs over input rows: any verb that turns rows into records, streamed and exactly once.

A verb is a ``work.Work``: ``prepare`` checks a row, ``run`` turns a batch of prepared rows into
output records, ``settings`` tells all that its records depend on. ``run_job`` does the rest:
it streams rows from ``inputs``, groups them into batches of like lengths inside chunks of fixed
slots (``chunks``), halves batches that do not fit into memory, carries columns through, rejects or
refuses bad rows, shows the progress, and commits chunk after chunk to an output file
(``output_file``), to standard output or to a function. A command therefore reads

    work = MyWork(...)
    options = JobOptions(prompts=Path("in.jsonl"), output=Path("out.jsonl.gz"), on_error="reject")
    report = run_job(work, options)
    return report.exit_code

and its records must not depend on anything but row, sample number and settings.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ldm_text.batch.chunk_file import EncodedChunk
from ldm_text.batch.chunks import ChunkRunner, Plan, check_row, place_of, read_chunks
from ldm_text.batch.columns import CarriedColumns
from ldm_text.batch.encoding import Encoding, encode_lines, encoding_of
from ldm_text.batch.inputs import InputRow, InputRows, InputSize
from ldm_text.batch.journal import JobState
from ldm_text.batch.line_inputs import StreamedLines, open_input
from ldm_text.batch.options import JobOptions
from ldm_text.batch.output_file import OutputFile, earlier_journal
from ldm_text.batch.progress import Progress
from ldm_text.batch.work import Record, RowError, Work

CHUNK_BATCHES = 8  # enough for batches of like lengths; what an interrupt can cost
EXIT_CODE_REJECTS = 3


@dataclass(frozen=True)
class JobReport:
    """What a job did, this run and earlier ones.

    Attributes:
        num_records: Records of this run.
        num_earlier_records: Records of earlier runs.
        num_rejects: Rows rejected by all runs, and texts that could not be written.
        num_tokens: Tokens of this run's texts.
        seconds: Time from the first row read to the last byte written.
    """

    num_records: int
    num_earlier_records: int
    num_rejects: int
    num_tokens: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or 3 if rows were rejected."""
        return EXIT_CODE_REJECTS if self.num_rejects else 0


class Job:
    """A job that is ready to run: its input measured, its rows checked, its options fit.

    Args:
        work: What to do.
        options: What to read and write.
        is_first: Whether this is the only process of the job, or the first one; the others leave
            measuring and checking to it.

    Attributes:
        work: What to do.
        options: What to read and write.
        source: The input.
        size: Number of rows and hash of the input; ``None`` for a stream and in other processes.
        columns: The columns to carry through.

    Raises:
        ValueError: If an option or, unless rows are to be rejected, a row does not do.
    """

    def __init__(self, work: Work, options: JobOptions, *, is_first: bool = True) -> None:
        if is_first:
            options.check()
        self.work, self.options = work, options
        self.columns = CarriedColumns(options.columns, tuple(work.fields))
        try:
            self.source: InputRows = open_input(options.prompts, options.prompts_format)
        except (OSError, ValueError) as error:
            raise ValueError(f"`--prompts`: {error}") from error
        if self.source.is_stream and options.shard is not None:
            raise ValueError("`--shard` needs a file of prompts: the end of a pipe is not known.")
        self._check_columns()
        self.size = self._measure() if is_first else None

    def _check_columns(self) -> None:
        """Look for the columns in a table; other rows have each their own."""
        if self.source.schema is None:
            return
        there = self.source.schema.names
        for name in self.options.columns:
            if name not in there:
                raise ValueError(
                    f"`--columns`: {self.source.name} has no column `{name}`; those there are "
                    f"{', '.join(there)}."
                )

    def _measure(self) -> InputSize | None:
        """Measure the input, and check each row before a job that stops at a bad one begins."""
        if self.source.is_stream:
            return None
        options = self.options
        goes_on = (
            options.file is not None
            and not options.start_over
            and earlier_journal(options.file) is not None
        )
        check = None if goes_on or options.on_error == "reject" else self._check_row
        try:
            return self.source.measure(check)
        except (OSError, ValueError) as error:
            raise ValueError(f"`--prompts`: {error}") from error

    def _check_row(self, row: InputRow) -> None:
        try:
            check_row(self.work, self.source, self.columns, row)
        except RowError as error:
            raise ValueError(f"{place_of(self.source, row)}: {error}") from error

    def settings(self) -> dict[str, Any]:
        """Return all that the content of the output depends on."""
        return self.work.settings() | {
            "prompts": None if self.size is None else self.size.digest,
            "columns": list(self.options.columns),
            "shard": self.options.shard,
            "num_samples": self.work.num_samples,
            "ldm-text": version("ldm-text"),
            "torch": torch.__version__,
        }

    def plan(self, chunk_slots: int) -> Plan:
        """Cut the job, or the shard of it, into chunks."""
        if self.size is None:
            return Plan(self.work.num_samples, chunk_slots)
        part, num_parts = self.options.part()
        num_slots = self.size.num_rows * self.work.num_samples
        first, end = (num_slots * i // num_parts for i in (part - 1, part))
        return Plan(self.work.num_samples, chunk_slots, first, end)

    def runner(self, on_batch: Callable[[int, int], None] | None = None) -> ChunkRunner:
        """Make what turns chunks into results."""
        reject = self.options.on_error == "reject"
        return ChunkRunner(
            self.work,
            self.source,
            self.columns,
            self.options.batch_size,
            reject=reject,
            on_batch=on_batch,
        )

    @property
    def file(self) -> Path:
        """The output file of a job that has one."""
        assert self.options.file is not None, "only jobs with a file are written to it"
        return self.options.file

    def encoding(self) -> Encoding:
        """Return the format of the output file."""
        return encoding_of(self.file, self.work.fields, self.columns, self.source.schema)

    def open_output(self) -> OutputFile:
        """Open the output file, begun or gone on with."""
        return OutputFile(
            self.file,
            self.encoding(),
            self.settings(),
            CHUNK_BATCHES * self.options.batch_size,
            start_over=self.options.start_over,
        )


def run_job(
    work: Work, options: JobOptions, show: Callable[[list[Record]], None] | None = None
) -> JobReport:
    """Carry out a job in this process.

    Args:
        work: What to do with the rows.
        options: What to read and write.
        show: Takes the records of a chunk; by default they go to standard output. Of no use where
            the output is a file.

    Raises:
        ValueError: If an option or a row does not do, or an earlier run was another job.
        OSError: If reading or writing fails.
        MemoryError: If there is no memory for a single row.
    """
    job = Job(work, options)
    return _fill_file(job) if options.file else _write_stream(job, show or _print_lines)


def _print_lines(records: list[Record]) -> None:
    sys.stdout.buffer.write(encode_lines(records))
    sys.stdout.buffer.flush()


def _write_stream(job: Job, show: Callable[[list[Record]], None]) -> JobReport:
    plan = job.plan(CHUNK_BATCHES * job.options.batch_size)
    num_records = 0
    with Progress(plan.num_slots) as progress:
        runner = job.runner(progress.advance)
        for chunk in read_chunks(job.source, plan):
            result = runner.run(chunk)
            show(result.records)
            num_records += len(result.records)
    return JobReport(num_records, 0, 0, progress.num_tokens, progress.seconds)


def _fill_file(job: Job) -> JobReport:
    with job.open_output() as file:
        begun = file.state
        plan = job.plan(begun.chunk_slots)
        if isinstance(job.source, StreamedLines) and begun.stream is not None:
            job.source.expect(begun.stream)
        with Progress(plan.num_slots, begun.num_slots) as progress:
            runner = job.runner(progress.advance)
            chunks = read_chunks(job.source, plan, begun.num_chunks)
            for chunk in () if begun.is_complete else chunks:
                done = EncodedChunk.of(runner.run(chunk), file.encoding)
                file.commit(done, job.source.position)
            file.complete()
        return report_of(file, begun, progress.num_tokens, progress.seconds)


def report_of(file: OutputFile, begun: JobState, num_tokens: int, seconds: float) -> JobReport:
    """Report a job whose file stood at ``begun`` when this run began."""
    return JobReport(
        file.state.num_records - begun.num_records,
        begun.num_records,
        file.state.num_rejects,
        num_tokens,
        seconds,
    )
