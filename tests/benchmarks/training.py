"""Training speed of both stages: bfloat16 autocast and compiled, beside float32 and eager.

    python tests/benchmarks/training.py

Networks and batches have the sizes of configs/*/e2e.yaml; the latents and tokens are random, which
takes the same time. Prints JSON: seconds a step, the median over the repeats taken in turns, and
tokens of text a second.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from jsonargparse import auto_cli
from torch import Tensor

from autoencoder.corruption import LatentCorruption
from autoencoder.model import TextAutoencoder
from autoencoder.training import reconstruction_loss
from denoiser.model import LatentDenoiser
from denoiser.objective import denoising_loss

SETTINGS = {"float32_eager": (False, False), "bfloat16_compiled": (True, True)}
# The sizes of configs/autoencoder/e2e.yaml and configs/denoiser/e2e.yaml.
AUTOENCODER = {
    "vocab_size": 2048,
    "tokens_per_latent": 4,
    "latent_dim": 128,
    "token_dim": 256,
    "hidden_dim": 384,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 6,
}
DENOISER = {"hidden_dim": 320, "num_layers": 6, "num_heads": 5}
AUTOENCODER_ROWS, DENOISER_ROWS = 96, 128
MAX_LENGTH_TOKENS, MAX_SOURCE_LENGTH_TOKENS = 64, 44


def autoencoder_step(compiled: bool) -> tuple[Callable[[], Tensor], torch.nn.Module, int]:
    """Make a function that computes the loss of stage 1, its network and its tokens a step."""
    network = TextAutoencoder(**AUTOENCODER)
    corruption = LatentCorruption(max_noise_ratio=1.5)
    if compiled:
        network.encoder.compile()
        network.decoder.compile()
    shape = (AUTOENCODER_ROWS, MAX_LENGTH_TOKENS)
    input_ids = torch.randint(3, AUTOENCODER["vocab_size"], shape)
    attention_mask = torch.ones(shape, dtype=torch.bool)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}

    def loss() -> Tensor:
        latents = network.encode(input_ids, attention_mask)
        return reconstruction_loss(network.decode(corruption(latents)), batch)

    return loss, network, input_ids.numel()


def denoiser_step(compiled: bool) -> tuple[Callable[[], Tensor], torch.nn.Module, int]:
    """Make a function that computes the loss of stage 2, its network and its tokens a step."""
    network = LatentDenoiser(AUTOENCODER["latent_dim"], **DENOISER)
    if compiled:
        network.compile()
    rows, dim = DENOISER_ROWS, AUTOENCODER["latent_dim"]
    latents = torch.randn(rows, MAX_LENGTH_TOKENS // AUTOENCODER["tokens_per_latent"], dim)
    known = torch.randn(rows, MAX_SOURCE_LENGTH_TOKENS // AUTOENCODER["tokens_per_latent"], dim)
    known_mask = torch.ones(known.shape[:2], dtype=torch.bool)

    def loss() -> Tensor:
        return denoising_loss(network, latents, known, known_mask, 4.0, 0.1, 0.5)["loss"]

    return loss, network, rows * MAX_LENGTH_TOKENS


def benchmark(num_steps: int = 5, num_repeats: int = 3) -> None:
    """Time training steps, forward, backward and optimizer.

    Args:
        num_steps: Steps a repeat.
        num_repeats: Repeats of each setting, in turns.
    """
    report = {}
    for stage, make in (("autoencoder", autoencoder_step), ("denoiser", denoiser_step)):
        steps, seconds = {}, {}
        for name, (low_precision, compiled) in SETTINGS.items():
            loss, network, num_tokens = make(compiled)
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
            precision = torch.autocast("cpu", torch.bfloat16) if low_precision else nullcontext()

            def step(loss=loss, optimizer=optimizer, precision=precision) -> None:
                with precision:
                    value = loss()
                optimizer.zero_grad()
                value.backward()
                optimizer.step()

            step()
            step()
            steps[name], seconds[name] = step, []
        for _ in range(num_repeats):
            for name, step in steps.items():
                start = time.perf_counter()
                for _ in range(num_steps):
                    step()
                seconds[name].append((time.perf_counter() - start) / num_steps)
        report[stage] = {
            name: {
                "seconds_per_step": round(statistics.median(times), 3),
                "tokens_per_second": round(num_tokens / statistics.median(times)),
            }
            for name, times in seconds.items()
        }
    report["num_threads"] = torch.get_num_threads()
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(benchmark, as_positional=False)
