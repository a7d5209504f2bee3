"""Rows a second of a batch job, from start to end: one process against two, in turns.

    python tests/benchmarks/throughput.py --pipeline checkpoints/e2e
    python tests/benchmarks/throughput.py --pipeline checkpoints/e2e \
        --ways "[one process, two devices, two shards, two ray workers]"

Each job is the command ``ldm-text generate`` with one thread a process: reading, tokenization,
network, filtering and writing. A job of one row tells what starting takes. Prints JSON: the seconds
of each way, its rows a second (medians over the repeats) with and without the start, the peak
memory of the process that was started, and how many rows are not those of the first way: shards
form other batches, and bfloat16 rounds otherwise there.
"""

import json
import operator
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli
from soak import start, watch, write_prompts

Way = Literal["one process", "two devices", "two shards", "two ray workers"]


def generate(way: Way, options: list[str], output: Path) -> int:
    """Write a file in one of the ways and return the peak memory in MiB.

    Raises:
        RuntimeError: If a command fails.
    """
    files = [output]
    more = {"two devices": ["--devices", "2"], "two ray workers": ["--ray_workers", "2"]}
    calls = [more.get(way, [])]
    if way == "two shards":
        files = [output.with_name(f"{number}_{output.name}") for number in (1, 2)]
        calls = [["--shard", f"{number}/2"] for number in (1, 2)]
    processes = [
        start([*options, *call, "--output", str(file)])
        for call, file in zip(calls, files, strict=True)
    ]
    ends = [watch(process) for process in processes]
    if any(code for code, _ in ends):
        raise RuntimeError(f"{way}: exit codes {[code for code, _ in ends]}")
    if way == "two shards":
        output.write_bytes(b"".join(file.read_bytes() for file in files))
    return max(peak for _, peak in ends)


def throughput(
    pipeline: Path,
    num_rows: int = 4000,
    num_inference_steps: int = 4,
    batch_size: int = 64,
    num_repeats: int = 3,
    ways: tuple[Way, ...] = ("one process", "two devices", "two shards"),
) -> None:
    """Time jobs on the validation sources of the E2E excerpt, repeated.

    Args:
        pipeline: Folder of the pipeline.
        num_rows: Rows of a job.
        num_inference_steps: Steps of the sampler.
        batch_size: Rows generated together.
        num_repeats: Jobs of each way.
        ways: How the work is shared out.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds: dict[tuple[Way, int], list[float]] = {}
    peaks: dict[Way, int] = {}
    lines: dict[Way, list[bytes]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in (1, num_rows):
            write_prompts(folder / f"{rows}.jsonl", rows)
        for repeat in range(num_repeats):
            for way in ways:
                for rows in (1, num_rows) if way != "two shards" else (num_rows,):
                    options = ["--pipeline", pipeline, "--prompts", folder / f"{rows}.jsonl"]
                    options += ["--batch_size", batch_size]
                    options += ["--num_inference_steps", num_inference_steps]
                    output = folder / f"{repeat}_{way.replace(' ', '_')}_{rows}.jsonl"
                    begin = time.perf_counter()
                    peaks[way] = generate(way, [str(option) for option in options], output)
                    seconds.setdefault((way, rows), []).append(time.perf_counter() - begin)
                lines[way] = output.read_bytes().splitlines()
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    report = {
        way: {
            "seconds": [round(value, 1) for value in seconds[way, num_rows]],
            "rows_per_second": round(num_rows / medians[way, num_rows], 1),
            "rows_per_second_without_start": round(
                num_rows / (medians[way, num_rows] - medians.get((way, 1), medians[ways[0], 1])),
                1,
            ),
            "peak_memory_mib": peaks[way],
            "rows_unlike_the_first_way": sum(map(operator.ne, lines[way], lines[ways[0]])),
        }
        for way in ways
    }
    sys.stdout.write(json.dumps({"num_rows": num_rows, **report}, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(throughput, as_positional=False)
