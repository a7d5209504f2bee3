"""Draws from categorical distributions, in float64.

In float32 the rarest tokens are never drawn, which is a hidden low temperature (Zheng et al. 2024,
arXiv:2409.02908).
"""

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from ldm_text.generation import Generators
from ldm_text.sampler_options import check_number


def uniform(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Draw float64 numbers in [0, 1); from a list of generators, each draws for its own row."""
    if isinstance(generator, list):
        return torch.stack([uniform(shape[1:], one, device) for one in generator])
    drawn_on = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=drawn_on).to(device)


def draw_categories(probs: Tensor, generator: Generators) -> Tensor:
    """Draw one category at each place, by inverting the distribution function.

    Args:
        probs: Non-negative weights ``(B, ..., V)``, not all zero; they need not sum to one.
        generator: One source of randomness, or one for each row.

    Returns:
        Categories ``(B, ...)``.
    """
    return categories_at(probs, uniform(probs.shape[:-1], generator, probs.device))


def categories_at(probs: Tensor, share: Tensor) -> Tensor:
    """Find the categories at which the distribution functions reach a share of their total.

    Args:
        probs: Non-negative weights ``(B, ..., V)``, not all zero; they need not sum to one.
        share: Float64 numbers in [0, 1), ``(B, ...)``.

    Returns:
        Categories ``(B, ...)``.
    """
    cumulative = probs.double().cumsum(dim=-1)
    threshold = share[..., None] * cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, threshold, right=True)[..., 0]
    return drawn.clamp(max=probs.shape[-1] - 1)  # a product may round up to the total


def token_probs(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Turn logits ``(..., V)`` into float64 probabilities, sharpened and cut.

    Args:
        logits: Unnormalized log-probabilities; ``-inf`` forbids a token.
        temperature: Divides the logits; 0 leaves the likeliest token only.
        top_p: Keep the fewest likeliest tokens that together have this probability, in (0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """
    check_number("temperature", temperature)
    check_number("top_p", top_p)
    logits = logits.double()
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    # From the largest down, or a small temperature would make infinities of which none is larger.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if top_p < 1:
        flat = logits.flatten(0, -2)
        # The warper ignores its first argument, the ids so far.
        logits = TopPLogitsWarper(top_p)(torch.empty(0), flat).view_as(logits)
    return logits.softmax(dim=-1)
