"""Samplers of masked diffusion that go down a grid of times, with or without self-correction.

Time runs in equal steps from 1, where all tokens are masked, to 0; at time ``t`` a token is masked
with probability ``t``. The tokens revealed in one step are drawn as if they were independent.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_text.baselines.token_predictor import TokenPredictor


def remask(
    predictor: TokenPredictor,
    ids: Tensor,
    num_inference_steps: int,
    remask_prob: Callable[[float], float],
) -> Tensor:
    """Go down the grid of times; at each step reveal some tokens, and mask some visible ones again.

    The reverse process of Wang et al. (2025, arXiv:2503.00307): ``remask_prob`` maps its largest
    possible value, with which the marginals stay those of masked diffusion, to the probability that
    a visible token is masked again. The network runs only where a token has changed since its last
    call, and one is masked. Tokens that are visible at the start are known, and never masked.
    """
    is_known = ids != predictor.mask_token_id
    probs, is_stale = None, True
    for step in range(num_inference_steps, 0, -1):
        t, s = step / num_inference_steps, (step - 1) / num_inference_steps
        remask_now = remask_prob(1.0 if step == num_inference_steps else min(1, s / (1 - t)))
        # So that a token is visible at s with probability 1 - s: (1 - remask) (1 - t) + reveal t.
        reveal_now = (t - s + remask_now * (1 - t)) / t
        is_masked = ids == predictor.mask_token_id
        if is_stale and bool(is_masked.any()):
            probs, is_stale = predictor.probs(predictor.log_probs(ids)), False
        # Drawn at each step, needed or not: a row's randomness must not depend on the others.
        tokens = predictor.draw_nothing(ids) if probs is None else predictor.draw(probs)
        number = predictor.uniform(ids)
        after = torch.where(is_masked & (number < reveal_now), tokens, ids)
        is_remasked = ~is_masked & ~is_known & (number < remask_now)
        after = after.masked_fill(is_remasked, predictor.mask_token_id)
        is_stale = is_stale or not torch.equal(after, ids)
        ids = after
    return ids


def ancestral(predictor: TokenPredictor, ids: Tensor, num_inference_steps: int) -> Tensor:
    """Reveal each masked token with probability ``(t - s) / t`` (Sahoo et al. 2024, MDLM)."""
    return remask(predictor, ids, num_inference_steps, lambda _: 0.0)


def remdm_cap(
    predictor: TokenPredictor, ids: Tensor, num_inference_steps: int, eta: float = 0.02
) -> Tensor:
    """Mask a visible token again with probability ``eta`` or what is possible, if that is less."""
    return remask(predictor, ids, num_inference_steps, lambda largest: min(eta, largest))


def remdm_rescale(
    predictor: TokenPredictor, ids: Tensor, num_inference_steps: int, eta: float = 0.02
) -> Tensor:
    """Mask a visible token again with ``eta`` times the probability that is possible."""
    return remask(predictor, ids, num_inference_steps, lambda largest: eta * largest)
