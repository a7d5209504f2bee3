"""Peak memory of a batch job against the size of its input, networks left out.

    python tests/benchmarks/batch_memory.py

The work of these jobs hashes a prompt in place of a network's call; all else is that of
``ldm-text generate``. Prints JSON: for each number of rows the peak memory of a process of its own,
above that of a job of one row, and the rows a second.
"""

import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from ldm_text.batch.job import run_job
from ldm_text.batch.options import JobOptions
from ldm_text.batch.work import Outputs


class HashWork:
    """A text is the hash of its prompt."""

    num_samples = 1
    fields: Mapping[str, type] = {"id": int, "text": str}

    def settings(self) -> dict[str, Any]:
        """Return nothing: there are none."""
        return {}

    def prepare(self, row: int, record: Mapping[str, Any]) -> tuple[int, str]:
        """Take the prompt."""
        return row, record["source"]

    def to(self, device: torch.device) -> None:
        """Stay."""

    def length(self, item: tuple[int, str]) -> int:
        """Return the prompt's length."""
        return len(item[1])

    def run(self, batch: Sequence[tuple[tuple[int, str], int]]) -> Outputs:
        """Hash each prompt."""
        rows = [
            {"id": row, "text": hashlib.sha256(source.encode()).hexdigest()}
            for (row, source), _ in batch
        ]
        return Outputs(rows, len(rows))


def measure(folder: Path, name: str, num_rows: int) -> dict[str, float]:
    """Run a job in this process; return its peak memory in MiB and its rows a second."""
    prompts = folder / "prompts.jsonl"
    with prompts.open("w") as file:
        file.writelines(json.dumps({"source": f"{n} " * (n % 40)}) + "\n" for n in range(num_rows))
    start = time.perf_counter()
    run_job(HashWork(), JobOptions(prompts, folder / name, start_over=True))
    return {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows_per_second": num_rows / (time.perf_counter() - start),
    }


def benchmark(
    num_rows: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000),
    names: tuple[str, ...] = ("out.jsonl", "out.jsonl.zst", "out.parquet"),
) -> None:
    """Measure each size and format.

    Args:
        num_rows: Sizes of the input.
        names: Names of the output, which say its format.
    """
    context = multiprocessing.get_context("spawn")
    report: dict[str, dict[int, dict[str, float]]] = {}
    for name in names:
        figures = {}
        for number in (1, *num_rows):
            with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
                figures[number] = pool.apply(measure, (Path(folder), name, number))
        base = figures.pop(1)["peak_mib"]
        report[name] = {
            number: {
                "mib_above_one_row": round(figure["peak_mib"] - base, 1),
                "rows_per_second": round(figure["rows_per_second"]),
            }
            for number, figure in figures.items()
        }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(benchmark, as_positional=False)
