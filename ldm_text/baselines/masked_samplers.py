"""Samplers of masked diffusion: from a text of mask tokens to a text without.

The network is not conditioned on time, so a prediction depends on the visible tokens alone, and a
sampler is nothing but a rule which tokens become visible at which call, or are masked again. What
is visible at the start stays what it is. The samplers that follow a grid of times stand in
``remasking``, the others here. Only ``first_hitting`` draws
exactly from the model; whatever reveals several tokens in one call takes them as independent.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_text.baselines.diffusion import check_num_inference_steps
from ldm_text.baselines.remasking import ancestral, remdm_cap, remdm_rescale
from ldm_text.baselines.sampler_calls import (
    check_at_most_one_call_a_token,
    check_blocks,
    check_one_call_a_token,
)
from ldm_text.baselines.token_predictor import TokenPredictor
from ldm_text.sampler_options import check_number

SamplerName = Literal[
    "ancestral",
    "first_hitting",
    "random",
    "confidence",
    "entropy_bound",
    "remdm_cap",
    "remdm_rescale",
]


def equal_quotas(num_tokens: int, num_steps: int) -> list[int]:
    """Split tokens into steps as evenly as can be, the larger ones first."""
    return [num_tokens // num_steps + (step < num_tokens % num_steps) for step in range(num_steps)]


def shared_bounds(num_masked: Tensor, num_steps: int) -> Tensor:
    """Share the masked tokens of each row out as ``equal_quotas`` does.

    Args:
        num_masked: Tokens of each row, ``(B,)``.
        num_steps: Number of steps.

    Returns:
        How many are revealed before each step and after the last one, ``(num_steps + 1, B, 1)``.
    """
    step = torch.arange(num_steps + 1, device=num_masked.device)[:, None]
    bounds = step * (num_masked // num_steps) + torch.minimum(step, num_masked % num_steps)
    return bounds[..., None]


def ranks(values: Tensor) -> Tensor:
    """Number the values of each row of ``(B, S)`` from 0 for the smallest; ties from the left."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)


def random_order(predictor: TokenPredictor, ids: Tensor, num_inference_steps: int) -> Tensor:
    """Reveal equally many tokens at each call, in random order."""
    is_masked = ids == predictor.mask_token_id
    rank = ranks(predictor.uniform(ids).masked_fill(~is_masked, torch.inf))
    bounds = shared_bounds(is_masked.sum(dim=1), num_inference_steps)
    for start, end in pairwise(bounds):
        _, tokens = predictor.predict_and_draw(ids)
        ids = torch.where((rank >= start) & (rank < end), tokens, ids)
    return ids


def first_hitting(predictor: TokenPredictor, ids: Tensor, num_inference_steps: int) -> Tensor:
    """Reveal one token at each call: ``ancestral`` at infinitely many steps, without empty ones.

    Zheng et al. (2024, arXiv:2409.02908) draw the time at which the next of ``n`` masked tokens is
    revealed, ``t * u**(1 / n)``, and take any of them. The network does not see the time, so what
    is left of it is the random order.
    """
    return random_order(predictor, ids, num_inference_steps)


def confidence(
    predictor: TokenPredictor,
    ids: Tensor,
    num_inference_steps: int,
    block_length: int | None = None,
) -> Tensor:
    """Keep the tokens that the network is surest of (low-confidence remasking of LLaDA).

    Block after block, each call draws all masked tokens of the block and keeps an equal share:
    those of the highest probability before temperature and ``top_p`` (Nie et al. 2025,
    arXiv:2502.09992).
    It seeks likely texts and does not draw from the model. diffusers' ``BlockRefinementScheduler``
    does the same in float32, with one source of randomness for all rows and with confidences
    after temperature.
    """
    num_tokens = ids.shape[1]
    block_length = num_tokens if block_length is None else block_length
    num_blocks = num_tokens // block_length
    block = torch.arange(num_tokens, device=ids.device) // block_length
    for index in range(num_blocks):
        num_open = ((ids == predictor.mask_token_id) & (block == index)).sum(dim=1)
        for start, end in pairwise(shared_bounds(num_open, num_inference_steps // num_blocks)):
            log_probs, tokens = predictor.predict_and_draw(ids)
            if log_probs.shape[-1] == 0:
                continue
            surety = log_probs.gather(-1, tokens[..., None])[..., 0]
            is_open = (ids == predictor.mask_token_id) & (block == index)
            rank = ranks((-surety).masked_fill(~is_open, torch.inf))
            ids = torch.where(is_open & (rank < end - start), tokens, ids)
    return ids


def bounded_entropy(
    predictor: TokenPredictor, ids: Tensor, num_inference_steps: int, entropy_bound: float = 0.1
) -> Tensor:
    """Reveal as many tokens at once as are nearly independent (Ben-Hamu et al. 2025, EB-sampler).

    Each call reveals the tokens of the lowest entropy, as long as the entropies of all but the last
    of them sum to at most ``entropy_bound`` nats (arXiv:2505.24857): that sum bounds what they tell
    about each other. Entropies are those before temperature and ``top_p``: tokens do not become
    independent by being cut down to the likeliest. ``num_inference_steps`` is an upper limit of the
    calls, and each call reveals at least what it takes to keep it. diffusers'
    ``EntropyBoundScheduler`` has the same rule for random tokens in place of masked ones, and no
    tokens that stay.
    """
    rank = torch.arange(ids.shape[1], device=ids.device)
    for calls_left in range(num_inference_steps, 0, -1):
        is_masked = ids == predictor.mask_token_id
        if not bool(is_masked.any()):
            break
        log_probs = predictor.log_probs(ids)
        entropy = torch.special.entr(log_probs.double().exp()).sum(dim=-1)
        entropy = entropy.masked_fill(~is_masked, torch.inf)
        lowest, order = entropy.sort(dim=1, stable=True)
        before = F.pad(lowest.cumsum(dim=1)[:, :-1], (1, 0))
        owed = -(-is_masked.sum(dim=1, keepdim=True) // calls_left)
        is_next = (before <= entropy_bound) | (rank < owed)
        is_next = torch.zeros_like(is_masked).scatter(1, order, is_next)
        tokens = predictor.draw(predictor.probs(log_probs))
        ids = torch.where(is_masked & is_next, tokens, ids)
    return ids


class Sampler(NamedTuple):
    """A sampler, the name of the option that it alone takes, and what it asks of the steps."""

    run: Callable[..., Tensor]
    option: str | None = None
    check: Callable[..., None] | None = None


SAMPLERS: dict[SamplerName, Sampler] = {
    "ancestral": Sampler(ancestral),
    "first_hitting": Sampler(first_hitting, check=check_one_call_a_token),
    "random": Sampler(random_order, check=check_at_most_one_call_a_token),
    "confidence": Sampler(confidence, "block_length", check_blocks),
    "entropy_bound": Sampler(bounded_entropy, "entropy_bound", check_at_most_one_call_a_token),
    "remdm_cap": Sampler(remdm_cap, "eta"),
    "remdm_rescale": Sampler(remdm_rescale, "eta"),
}


def check_sampler(
    name: SamplerName,
    num_tokens: int,
    num_inference_steps: int | None,
    **options: float | None,
) -> int:
    """Refuse what a sampler cannot do.

    Args:
        name: Which sampler.
        num_tokens: Length of the texts.
        num_inference_steps: Steps; ``None`` takes one for each token.
        options: Options of single samplers; ``None`` is one that was not given.

    Returns:
        The number of steps.

    Raises:
        ValueError: If there is no such sampler, or an option is out of range or has no effect.
    """
    if name not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}, got {name!r}.")
    sampler, given = SAMPLERS[name], given_options(options)
    for option, value in given.items():
        if option != sampler.option:
            raise ValueError(
                f"`{option}` has no effect with the sampler {name!r}. Leave it out, got {value}."
            )
        check_number(option, value)
    num_steps = check_num_inference_steps(num_inference_steps, default=num_tokens)
    if sampler.check is not None:
        sampler.check(num_tokens, num_steps, **given)
    return num_steps


def given_options(options: dict[str, float | None]) -> dict[str, float]:
    """Leave out the options that were not given."""
    return {option: value for option, value in options.items() if value is not None}


def run_sampler(
    name: SamplerName,
    predictor: TokenPredictor,
    ids: Tensor,
    num_inference_steps: int | None,
    **options: float | None,
) -> Tensor:
    """Reveal the tokens of masked texts ``(B, S)``; arguments are those of ``check_sampler``.

    Args:
        name: Which sampler.
        predictor: What predicts tokens and draws them.
        ids: Texts of mask tokens, and of tokens that are known.
        num_inference_steps: Steps.
        options: Options of single samplers.

    Raises:
        ValueError: If there is no such sampler, or an option is out of range or has no effect.
    """
    num_steps = check_sampler(name, ids.shape[1], num_inference_steps, **options)
    return SAMPLERS[name].run(predictor, ids, num_steps, **given_options(options))
