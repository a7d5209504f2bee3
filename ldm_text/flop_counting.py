"""A counter of floating-point operations that also sees the attention of a CPU."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **options: Any) -> int:
    """Count the two matrix products of attention from the shapes of its inputs."""
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(
    grad_output: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **options: Any
) -> int:
    """Count the five matrix products of its gradients; one of them computes the scores again."""
    return sdpa_backward_flop_count(grad_output, query, key, value)


# PyTorch has formulas for the fused attention of CUDA alone: that of a CPU would count as nothing.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


def flop_counter() -> FlopCounterMode:
    """Make a counter of the operations in matrix products and attention, to be used as a context.

    The attention of a CPU counts as PyTorch counts that of CUDA: masked positions count, also those
    behind a causal mask. Elementwise work does not, and compiled code cannot be looked into.
    """
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
