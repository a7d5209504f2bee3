"""The type that networks compute in: bfloat16 only where the device has instructions for it.

Emulated bfloat16 is far slower than float32: matrix products of 1 GFLOP/s against 84 to 150 were
measured on two cores with AVX2 alone.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from autoencoder.bfloat16 import has_native_bfloat16

Precision = Literal["auto", "float32", "bfloat16"]

logger = logging.getLogger(__name__)


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Replace ``auto`` by bfloat16 where the device computes it natively, else by float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_native_bfloat16(device) else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Run networks in the precision; a sampler keeps its latents in float32."""
    if resolve_precision(precision, device) == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def warn_of_emulation(trainer_options: Any) -> None:
    """Warn of a training in bfloat16 on a CPU that emulates it.

    Args:
        trainer_options: ``accelerator`` and ``precision`` of a Lightning trainer.
    """
    on_cpu = trainer_options.accelerator == "cpu" or not torch.cuda.is_available()
    precision = str(trainer_options.precision)
    if on_cpu and "bf16" in precision and not has_native_bfloat16(torch.device("cpu")):
        logger.warning(
            "`--trainer.precision %s`: this CPU emulates bfloat16, which is up to a hundred times "
            "slower than float32; train with `--trainer.precision 32-true`.",
            precision,
        )
