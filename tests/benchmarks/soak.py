"""Kill a batch job at random moments, again and again; compare its file with an unbroken run's.

    python tests/benchmarks/soak.py --pipeline checkpoints/e2e

That is 100,000 rows and 100 kills; ``--num_rows 300 --num_kills 5 --num_inference_steps 1`` is the
short version. Each run is the command ``ldm-text generate`` in a process of its own, ended by
SIGKILL. Prints JSON: kills, rows lost and doubled, whether the files are equal byte for byte, and
the peak memory of the unbroken run, of the first and of the largest of the others.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from jsonargparse import auto_cli

from ldm_text.data.records import read_records

SHARE_AT_START = 0.2  # of the kills
LONGEST_START_S = 10.0


def write_prompts(path: Path, num_rows: int) -> None:
    """Write the validation sources of the E2E excerpt, repeated."""
    records = list(
        read_records("excerpt:e2e_validation", text_field="target", source_field="source")
    )
    with path.open("w", encoding="utf-8") as file:
        for record in islice(cycle(records), num_rows):
            file.write(json.dumps({"source": record.source}, ensure_ascii=False) + "\n")


def start(options: list[str]) -> subprocess.Popen:
    """Start the command."""
    script = Path(sys.executable).with_name("ldm-text")
    return subprocess.Popen(
        [sys.executable, str(script), "generate", *options], stdout=subprocess.DEVNULL
    )


def watch(process: subprocess.Popen, is_over: Callable[[], bool] = bool) -> tuple[int, int]:
    """Wait for a process, kill it once that is so; return its exit code and peak memory in MiB."""
    peak_kib = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        peak_kib = max([peak_kib, *map(int, sizes)])
        if is_over():
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    return process.wait(), peak_kib // 1024


def choose_end(
    output: Path, rows_a_life: float, random_numbers: random.Random
) -> Callable[[], bool]:
    """Choose when to kill a run: before it begins its work, or some rows and moments later."""
    if random_numbers.random() < SHARE_AT_START:
        end_s = time.monotonic() + random_numbers.uniform(0, LONGEST_START_S)
        return lambda: time.monotonic() > end_s
    rows = rows_committed(output) + random_numbers.uniform(0, 2 * rows_a_life)
    wait_s, reached_s = random_numbers.uniform(0, 1), []

    def is_over() -> bool:
        if not reached_s and rows_committed(output) > rows:
            reached_s.append(time.monotonic())
        return bool(reached_s) and time.monotonic() > reached_s[0] + wait_s

    return is_over


def rows_committed(output: Path) -> int:
    """Return how many rows the journal tells of."""
    journal = output.with_name(output.name + ".job.json")
    return json.loads(journal.read_text())["state"]["num_records"] if journal.exists() else 0


def soak(
    pipeline: Path,
    num_rows: int = 100_000,
    num_kills: int = 100,
    num_inference_steps: int = 4,
    batch_size: int = 64,
    output_name: str = "out.jsonl",
    seed: int = 0,
) -> None:
    """Run one job unbroken and one that is killed, and compare them.

    Args:
        pipeline: Folder of the pipeline.
        num_rows: Rows of the job.
        num_kills: How often to kill it at most; about as often, as moments are random: what is
            left of the rows is shared out among the kills that are left.
        num_inference_steps: Steps of the sampler.
        batch_size: Rows generated together.
        output_name: Name of the output, which says its format.
        seed: Seed of the moments.
    """
    random_numbers = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts, output = folder / "prompts.jsonl", folder / output_name
        write_prompts(prompts, num_rows)
        common = ["--pipeline", pipeline, "--batch_size", batch_size, "--prompts", prompts]
        common += ["--num_inference_steps", num_inference_steps, "--output"]
        options = [str(option) for option in common]
        begin = time.perf_counter()
        code, peak_mib = watch(start([*options, str(folder / f"unbroken_{output_name}")]))
        unbroken_s = time.perf_counter() - begin
        assert code == 0, "the unbroken run must work"
        kills, peaks, committed = 0, [], []
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            rows_left = num_rows - (committed[-1] if committed else 0)
            is_over = choose_end(output, rows_left / (num_kills - kills + 1), random_numbers)
            process = start([*options, str(output)])
            code, peak = watch(process, is_over if kills < num_kills else bool)
            kills += code == -signal.SIGKILL
            peaks.append(peak)
            committed.append(rows_committed(output))
        same = output.read_bytes() == (folder / f"unbroken_{output_name}").read_bytes()
        report = {
            "num_rows": num_rows,
            "kills": kills,
            "exit_code": code,
            "files_equal": same,
            "runs_that_went_on_behind_rows": sum(number > 0 for number in committed),
            "peak_memory_mib": {"unbroken": peak_mib, "first": peaks[0], "largest": max(peaks)},
            "seconds_unbroken": round(unbroken_s, 1),
        }
        if output_name.endswith(".jsonl"):
            ids = [json.loads(line)["id"] for line in output.open(encoding="utf-8")]
            report["rows_lost"] = num_rows - len(set(ids))
            report["rows_twice"] = len(ids) - len(set(ids))
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(soak, as_positional=False)
