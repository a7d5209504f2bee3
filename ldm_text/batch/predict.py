"""The same job on several devices and machines, through Lightning's ``trainer.predict``.

The processes take the chunks in turns and write each as a file beside the output; the first process
joins them in order when all are there. A job that was broken off goes on with the chunks that are
missing, on as many devices as there are then.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, IterableDataset

from ldm_text.batch.chunk_file import ChunkFolder, EncodedChunk, chunk_folder
from ldm_text.batch.chunks import Chunk, ChunkResult, Plan, read_chunks
from ldm_text.batch.inputs import InputRows
from ldm_text.batch.job import Job, JobReport, report_of
from ldm_text.batch.options import JobOptions
from ldm_text.batch.progress import Progress
from ldm_text.batch.work import Work

# A process that is done waits for the slowest; Lightning's own limit is half an hour.
LONGEST_WAIT = timedelta(days=30)


class ChunksOfOneProcess(IterableDataset):
    """The chunks that one process works on.

    Args:
        source: The rows.
        plan: How they are cut.
        numbers: The chunks to read.
    """

    def __init__(self, source: InputRows, plan: Plan, numbers: list[int]) -> None:
        self.source, self.plan, self.numbers = source, plan, numbers

    def __iter__(self) -> Iterator[Chunk]:
        if self.numbers:
            yield from read_chunks(self.source, self.plan, self.numbers[0], frozenset(self.numbers))


@dataclass(frozen=True)
class Task:
    """What the first process tells the others: the plan, the chunks to do, and where they go."""

    plan: Plan
    numbers: list[int]
    folder: ChunkFolder


class LitJob(LightningModule):
    """Let Lightning call a job's work with one chunk after the other.

    Args:
        job: The job.
        task: What there is to do; needed in the first process only.
        progress: Shows the first process's share.
    """

    def __init__(
        self, job: Job, task: Task | None = None, progress: Progress | None = None
    ) -> None:
        super().__init__()
        self.job, self.task, self.encoding = job, task, job.encoding()
        self.runner = job.runner(None if progress is None else progress.advance)

    def told(self) -> Task:
        """Return what there is to do."""
        assert self.task is not None, "the first process tells it before anything is done"
        return self.task

    def setup(self, stage: str) -> None:
        """Tell all processes what there is to do, and move the networks to their device."""
        self.task = self.trainer.strategy.broadcast(self.task)
        self.job.work.to(self.trainer.strategy.root_device)

    def predict_dataloader(self) -> DataLoader:
        """Return every n-th of the chunks to do, for n processes."""
        task = self.told()
        own = task.numbers[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(ChunksOfOneProcess(self.job.source, task.plan, own), batch_size=None)

    def transfer_batch_to_device(
        self, batch: Chunk, device: torch.device, dataloader_idx: int
    ) -> Chunk:
        """Leave a chunk where it is: it holds no tensors."""
        return batch

    def predict_step(self, batch: Chunk, batch_idx: int) -> ChunkResult:
        """Make the records of a chunk."""
        return self.runner.run(batch)

    def on_predict_end(self) -> None:
        """Wait until all processes have written their chunks."""
        self.trainer.strategy.barrier()


class ChunkWriter(BasePredictionWriter):
    """Write the result of each chunk into the folder of the job."""

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: ChunkResult,
        batch_indices: Sequence[int] | None,
        batch: Chunk,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one chunk."""
        assert isinstance(pl_module, LitJob), "no other module makes chunks"
        pl_module.told().folder.write(EncodedChunk.of(prediction, pl_module.encoding))


def run_job_on_devices(
    work: Work, options: JobOptions, devices: int, num_nodes: int = 1
) -> JobReport | None:
    """Carry out a job in several processes; every one of them calls this function.

    Lightning starts the others on this machine by running the command again. On several machines
    ``torchrun`` or SLURM starts them, and the output must be in a folder that all can reach.

    Args:
        work: What to do with the rows.
        options: What to read and write.
        devices: Processes on each machine, one a device.
        num_nodes: Machines.

    Returns:
        The report; ``None`` in all processes but the first.

    Raises:
        ValueError: If an option or a row does not do, or an earlier run was another job.
        OSError: If reading or writing fails.
    """
    if options.file is None:
        raise ValueError("`--devices` and `--num_nodes` need `--output FILE`.")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=devices,
        num_nodes=num_nodes,
        strategy=DDPStrategy(timeout=LONGEST_WAIT),
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ChunkWriter("batch")],
    )
    if trainer.is_global_zero:
        return _run_first(trainer, Job(work, options))
    job = Job(work, options, is_first=False)
    _predict(trainer, LitJob(job))
    return None


def _run_first(trainer: Trainer, job: Job) -> JobReport:
    if job.source.is_stream:
        raise ValueError("`--devices` needs a file of prompts: a pipe cannot be shared.")
    num_tokens = 0
    with job.open_output() as file:
        begun = file.state
        folder = chunk_folder(file.path, file.job_key)
        folder.make()
        plan = job.plan(begun.chunk_slots)
        numbers = range(begun.num_chunks, plan.num_chunks)
        missing = folder.missing(numbers)
        share = sum(plan.slots_of(number) for number in missing[:: trainer.world_size])
        with Progress(share) as progress:
            if missing:
                _predict(trainer, LitJob(job, Task(plan, missing, folder), progress))
            for chunk in folder.take(numbers):
                file.commit(chunk)
                num_tokens += chunk.num_tokens
            file.complete()
        return report_of(file, begun, num_tokens, progress.seconds)


def _predict(trainer: Trainer, module: LitJob) -> None:
    with warnings.catch_warnings():
        # A chunk knows its own number, and reading rows takes no time worth a worker.
        warnings.filterwarnings("ignore", ".*Couldn't infer the batch indices.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.predict(module, return_predictions=False)
