"""Training speed on a corpus that fits into memory and on one that does not, in turns.

    systemd-run --scope -p MemoryMax=1G python tests/benchmarks/larger_than_memory.py

The token caches hold random ids of rows of 64 tokens; all else is that of ``ldm-text fit``: mapped
files, rows in random order, the network of configs/autoencoder/e2e_small.yaml. The limit is set
from outside. Prints JSON: for each number of rows the size of its files, seconds a step and of it
seconds for the batch (medians over the repeats), and pages that had to be read from the disk.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from autoencoder.corruption import LatentCorruption
from autoencoder.model import TextAutoencoder
from autoencoder.training import reconstruction_loss
from ldm_text.data.batches import RecordRows, keep_batch
from ldm_text.data.growing_array import GrowingArray
from ldm_text.data.resumable_loader import ResumableLoader, ShuffledRows
from ldm_text.data.token_cache import META, open_token_cache

LENGTH_TOKENS, VOCAB_SIZE, BATCH_SIZE = 64, 2048, 48
ROWS_A_WRITE = 100_000


def write_cache(folder: Path, num_rows: int) -> None:
    """Write a token cache of random ids, a part at a time."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    with GrowingArray(folder / "text_ids.npy", np.dtype(np.uint16)) as ids:
        for first in range(0, num_rows, ROWS_A_WRITE):
            size = min(ROWS_A_WRITE, num_rows - first) * (LENGTH_TOKENS - 1)
            ids.append(numbers.integers(3, VOCAB_SIZE, size, np.uint16))
    with GrowingArray(folder / "text_offsets.npy", np.dtype(np.int64)) as offsets:
        for first in range(0, num_rows + 1, ROWS_A_WRITE):
            last = min(first + ROWS_A_WRITE, num_rows + 1)
            offsets.append(np.arange(first, last) * (LENGTH_TOKENS - 1))
    changes = {f"num_{change}": 0 for change in ("dropped", "truncated", "split")}
    (folder / META).write_text(json.dumps({"name": folder.name, **changes}))


def train(folder: Path, network: TextAutoencoder, num_steps: int, seed: int) -> list[float]:
    """Train for some steps; return the medians of a step and of its batch, in seconds."""
    rows = RecordRows(
        open_token_cache(folder),
        max_length_tokens=LENGTH_TOKENS,
        max_source_length_tokens=LENGTH_TOKENS,
        pad_token_id=0,
        end_token_id=1,
    )
    order = ShuffledRows(rows, batch_size=BATCH_SIZE, num_replicas=1, rank=0, seed=seed)
    options = {"batch_size": BATCH_SIZE, "collate_fn": keep_batch, "drop_last": True}
    loader = iter(ResumableLoader(rows, sampler=order, **options))
    corruption = LatentCorruption(max_noise_ratio=1.5)
    optimizer = torch.optim.AdamW(network.parameters())
    times = []
    for _ in range(num_steps):
        begin = time.perf_counter()
        batch = next(loader)
        has_batch = time.perf_counter()
        latents = network.encode(batch["input_ids"], batch["attention_mask"])
        reconstruction_loss(network.decode(corruption(latents)), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.perf_counter() - begin, has_batch - begin))
    return [statistics.median(part) for part in zip(*times, strict=True)]


def larger_than_memory(
    num_rows: tuple[int, ...] = (20_000, 16_000_000), num_steps: int = 60, num_repeats: int = 3
) -> None:
    """Compare corpora of several sizes.

    Args:
        num_rows: Rows of the corpora; 16,000,000 take 2.1 GB.
        num_steps: Steps of training of each turn.
        num_repeats: Turns.
    """
    torch.manual_seed(0)
    network = TextAutoencoder(
        vocab_size=VOCAB_SIZE,
        tokens_per_latent=4,
        latent_dim=96,
        token_dim=128,
        hidden_dim=128,
        num_encoder_layers=1,
        num_decoder_layers=2,
        num_heads=2,
    )
    report: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folders = {rows: Path(name) / str(rows) for rows in num_rows}
        for rows, folder in folders.items():
            write_cache(folder, rows)
        times: dict[int, list[list[float]]] = {rows: [] for rows in num_rows}
        faults = dict.fromkeys(num_rows, 0)
        for repeat in range(num_repeats):
            for rows, folder in folders.items():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
                times[rows].append(train(folder, network, num_steps, repeat))
                faults[rows] += resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
        for rows, folder in folders.items():
            size = sum(file.stat().st_size for file in folder.iterdir())
            step_s, batch_s = (statistics.median(part) for part in zip(*times[rows], strict=True))
            report[str(rows)] = {
                "mib": round(size / 2**20),
                "seconds_a_step": round(step_s, 4),
                "seconds_a_batch": round(batch_s, 5),
                "pages_read": faults[rows],
            }
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps({"peak_memory_mib": peak_mib, **report}, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(larger_than_memory, as_positional=False)
