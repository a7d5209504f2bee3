"""Wall time and peak memory of generating 547 rows, beside the autoencoder's decoding alone.

    python tests/benchmarks/generation.py --pipeline checkpoints/e2e

The prompts are the validation sources of the E2E excerpt, repeated to the size of the official
validation set. Prints JSON: for each precision the median over the repeats, taken in turns.
"""

import json
import resource
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import torch
from jsonargparse import auto_cli

from ldm_text.data.records import read_records
from ldm_text.generated_rows import generate_rows
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import Precision, autocast


def time_decoding(
    pipeline: LatentTextPipeline, num_rows: int, batch_size: int, precision: Precision
) -> float:
    """Decode as many random latents, in seconds."""
    latents = pipeline.prepare_latents(num_rows, torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with torch.no_grad(), autocast(pipeline.device, precision):
        for batch in latents.split(batch_size):
            pipeline.decode_latents(batch)
    return time.perf_counter() - start


def benchmark(
    pipeline: Path,
    num_rows: int = 547,
    num_inference_steps: int = 16,
    guidance_scale: float = 3.0,
    batch_size: int = 64,
    num_repeats: int = 3,
) -> None:
    """Time generation in both precisions.

    Args:
        pipeline: Folder of the pipeline.
        num_rows: Rows to generate.
        num_inference_steps: Steps of the sampler.
        guidance_scale: Weight of guidance.
        batch_size: Rows generated together.
        num_repeats: How often each is timed.
    """
    loaded = LatentTextPipeline.from_pretrained(pipeline)
    records = read_records("excerpt:e2e_validation", text_field="target", source_field="source")
    sources = [record.source for record in records]
    prompts = list(islice(cycle(sources), num_rows))
    seconds: dict[str, list[float]] = {}
    num_tokens = 0
    for _ in range(num_repeats):
        for precision in ("bfloat16", "float32"):
            start = time.perf_counter()
            batches = generate_rows(
                loaded,
                prompts,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                batch_size=batch_size,
                precision=precision,
            )
            texts = [row.text for batch in batches for row in batch]
            seconds.setdefault(f"generate_{precision}", []).append(time.perf_counter() - start)
            decoding = time_decoding(loaded, num_rows, batch_size, precision)
            seconds.setdefault(f"decode_{precision}", []).append(decoding)
            num_tokens = sum(map(len, loaded.tokenizer(texts)["input_ids"]))
    report = {
        "num_rows": num_rows,
        "num_tokens": num_tokens,
        "seconds": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "num_threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(benchmark, as_positional=False)
