"""Attention counts on every device, and as on CUDA."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm_text.flop_counting import flop_counter

SHAPES = {"query": (2, 3, 5, 8), "key": (2, 3, 7, 8), "value": (2, 3, 7, 8)}
PRODUCT = 2 * (2 * 3) * 5 * 7 * 8  # operations of one product of all scores


def count(backend, **options):
    """Count the operations of attention forwards, and of its backward pass."""
    inputs = [torch.randn(shape, requires_grad=True) for shape in SHAPES.values()]
    with sdpa_kernel(backend):
        with flop_counter() as forward:
            output = F.scaled_dot_product_attention(*inputs, **options)
        with flop_counter() as backward:
            output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize(
    "options", [{}, {"attn_mask": torch.ones(5, 7, dtype=torch.bool)}, {"scale": 0.5}]
)
def test_attention_of_a_cpu_is_counted(options):
    """It was counted as 0. Fused attention computes the scores again on its way back."""
    fused = count(SDPBackend.FLASH_ATTENTION, **options)
    plain = count(SDPBackend.MATH, **options)
    assert plain == (2 * PRODUCT, 4 * PRODUCT)
    assert fused == (2 * PRODUCT, 5 * PRODUCT)


def test_matrix_products_count_once():
    with flop_counter() as counter:
        torch.ones(2, 3) @ torch.ones(3, 5)
    assert counter.get_total_flops() == 2 * 2 * 3 * 5
