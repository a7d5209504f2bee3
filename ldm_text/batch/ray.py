"""The same job as a Ray Data pipeline, on a cluster (extra ``ray``).

Workers read the prompts themselves, so all machines need them and the pipeline under one path; the
process that began the job writes the output, chunk by chunk in order, and can go on with it later.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from ldm_text.batch.chunk_file import EncodedChunk
from ldm_text.batch.chunks import Chunk, Plan, read_chunks
from ldm_text.batch.job import Job, JobReport, report_of
from ldm_text.batch.options import JobOptions
from ldm_text.batch.output_file import OutputFile
from ldm_text.batch.progress import Progress
from ldm_text.batch.work import Work

MAX_BLOCKS = 4096  # more cost Ray more than they give


class ChunkWorker:
    """One worker of the pool: it loads the work once and makes chunk after chunk.

    Args:
        load: Makes the work.
        options: What the job reads and writes.
        plan: How its slots are cut.
    """

    def __init__(self, load: Callable[[], Work], options: JobOptions, plan: Plan) -> None:
        self.job = Job(load(), options, is_first=False)
        self.plan = plan
        self.runner, self.encoding = self.job.runner(), self.job.encoding()
        self.chunks: Iterator[Chunk] = iter(())
        self.next_number = 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the chunks whose numbers are in the column ``id``."""
        packed = []
        for number in batch["id"]:
            result = self.runner.run(self.read(int(number)))
            packed.append(EncodedChunk.of(result, self.encoding).pack())
        return {"packed": packed}

    def read(self, number: int) -> Chunk:
        """Read a chunk; numbers mostly rise, and reading goes on from one to the next."""
        if number < self.next_number or self.next_number == 0:
            self.chunks = read_chunks(self.job.source, self.plan, number)
        chunk = next(chunk for chunk in self.chunks if chunk.number == number)
        self.next_number = number + 1
        return chunk


def run_job_on_ray(load: Callable[[], Work], options: JobOptions, num_workers: int) -> JobReport:
    """Carry out a job on the cluster that ``RAY_ADDRESS`` names, or on this machine.

    Args:
        load: Makes the work; called here and in each worker.
        options: What to read and write.
        num_workers: Workers, each with a GPU of its own where this machine has one.

    Raises:
        ValueError: If Ray is missing, an option or a row does not do, or an earlier run was
            another job.
        OSError: If reading or writing fails.
    """
    if num_workers < 1:
        raise ValueError(f"`--ray_workers` must be at least 1, got {num_workers}.")
    if options.file is None:
        raise ValueError("`--ray_workers` needs `--output FILE`.")
    try:
        import ray
    except ImportError as error:
        raise ValueError("`--ray_workers` needs Ray: pip install 'ldm-text[ray]'.") from error
    if options.prompts is not None and options.prompts.exists():  # workers start elsewhere
        options = replace(options, prompts=options.prompts.absolute())
    job = Job(load(), options)
    if job.source.is_stream:
        raise ValueError("`--ray_workers` needs a file of prompts: a pipe cannot be shared.")
    with job.open_output() as file:
        begun = file.state
        plan = job.plan(begun.chunk_slots)
        with Progress(plan.num_slots, begun.num_slots) as progress:
            if begun.num_chunks < plan.num_chunks:
                _start(ray, num_workers)
                for chunk in _chunks(ray, load, options, plan, file, num_workers):
                    file.commit(chunk)
                    progress.advance(chunk.num_slots, chunk.num_tokens)
            file.complete()
        return report_of(file, begun, progress.num_tokens, progress.seconds)


def _start(ray: Any, num_workers: int) -> None:
    if not ray.is_initialized():
        # On this machine Ray Data needs a processor besides those of the workers.
        local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": num_workers + 1}
        ray.init(include_dashboard=False, logging_level=logging.WARNING, **local)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False


def _chunks(
    ray: Any,
    load: Callable[[], Work],
    options: JobOptions,
    plan: Plan,
    file: OutputFile,
    num_workers: int,
) -> Iterator[EncodedChunk]:
    """Let the pool make the chunks that are not committed, and yield them in order."""
    first = file.state.num_chunks
    num_chunks = plan.num_chunks - first
    numbers = ray.data.range(num_chunks, override_num_blocks=min(num_chunks, MAX_BLOCKS))
    results = numbers.map_batches(lambda batch: {"id": batch["id"] + first}).map_batches(
        ChunkWorker,
        fn_constructor_args=(load, options, plan),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_cpus=1,
        num_gpus=1 if torch.cuda.is_available() else 0,
    )
    for row in results.iter_rows():
        yield EncodedChunk.unpack(row["packed"])
