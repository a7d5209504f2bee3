"""A quick work whose records are hashes, and ways to run and to kill jobs and to read them."""

import gzip
import hashlib
import io
import json
import lzma
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import zstandard
from pyarrow import parquet  # before the fork

from ldm_text.batch.job import run_job
from ldm_text.batch.options import JobOptions
from ldm_text.batch.work import Outputs, RowError

# A process is forked from one that has all imported, as a killed one is replaced hundreds of times.
sys.path.append(str(Path(__file__).parents[3]))  # where that one finds this module
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


@dataclass
class ToyWork:
    """A text is a hash of its source, row and sample; the model's limit is 40 characters."""

    num_samples: int = 1
    name: str = "toy"
    seconds_a_batch: float = 0.0

    fields = {"id": int, "source": str, "text": str, "sample": int}  # noqa: RUF012

    def settings(self):
        return {"name": self.name}

    def prepare(self, row, record):
        if not isinstance(record.get("source"), str):
            raise RowError("no source.")
        if len(record["source"]) > 40:
            raise RowError("the prompt is too long.")
        return row, record["source"]

    def to(self, device):
        pass

    def length(self, item):
        return len(item[1])

    def run(self, batch):
        if self.seconds_a_batch:
            time.sleep(self.seconds_a_batch)
        records = [
            {"id": row, "source": source, "text": digest(source, row, sample), "sample": sample}
            for (row, source), sample in batch
        ]
        return Outputs(records, 5 * len(batch))


def digest(*values):
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def run_toy(options, work=None, stdin=None, kill_at=None, max_file_bytes=None):
    """Run a job in this process, killed at its n-th operation on a file below the output's folder.

    Leaves with exit code 1 after an ``OSError``.
    """
    if stdin is not None:
        sys.stdin = io.TextIOWrapper(io.FileIO(stdin))
    if max_file_bytes is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, hard))
    if kill_at is not None:
        kill_at_operation(kill_at, str(options.output.parent))
    try:
        report = run_job(ToyWork() if work is None else work, options)
    except OSError:
        sys.exit(1)
    sys.exit(report.exit_code)


def kill_at_operation(number, folder):
    """Kill this process before the n-th time it opens, renames, removes, syncs or cuts a file."""
    seen = []
    events = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir")

    def step(*_):
        seen.append(None)
        if len(seen) > number:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_event(event, arguments):
        if event in events and folder in str(arguments[0]):
            step()

    sync = os.fsync

    def killing_sync(descriptor):
        step()
        sync(descriptor)
        step()

    os.fsync = killing_sync
    sys.addaudithook(on_event)


def start(options, **arguments):
    """Start a job in a process of its own."""
    process = CONTEXT.Process(target=run_toy, args=(options,), kwargs=arguments)
    process.start()
    return process


def run(options, **arguments):
    """Run a job in a process of its own; return its exit code, negative after a signal."""
    process = start(options, **arguments)
    process.join(60)
    return process.exitcode


def options_for(prompts, output, **options):
    return JobOptions(Path(prompts), Path(output), **{"batch_size": 2} | options)


READ = {
    "out.jsonl": bytes,
    "out.jsonl.gz": gzip.decompress,
    "out.jsonl.xz": lzma.decompress,
    "out.jsonl.zst": lambda content: (
        zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
    ),
}


def read(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    content = READ.get(path.name, bytes)(path.read_bytes())
    return [json.loads(line) for line in content.splitlines()]


def expected_records(num_rows=50, num_samples=1):
    sources = [f"{number} {'x' * (number * 7 % 30)}" for number in range(num_rows)]
    return [
        {"id": row, "source": source, "text": digest(source, row, sample), "sample": sample}
        for row, source in enumerate(sources)
        for sample in range(num_samples)
    ]
