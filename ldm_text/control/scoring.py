"""How probable a model finds a text: to choose among candidates, and to find weak places."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from denoiser.noise import add_noise, shift_time
from denoiser.schedulers import noise_shift_of
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.sequences import prompt_batch
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline

NOISE_TIMES = (0.25, 0.5, 0.75)  # before the shift
NUM_BOUND_DRAWS = 16


def with_end(sequences: Tensor, pad_token_id: int, end_token_id: int) -> Tensor:
    """Write the end token behind each text of ``(B, S)`` ids that ends before ``S``."""
    places = torch.arange(sequences.shape[1], device=sequences.device)
    is_text = sequences != pad_token_id
    length = ((places + 1) * is_text).amax(dim=1, keepdim=True)
    return sequences.masked_fill(places == length, end_token_id)


@torch.no_grad()
def token_log_probs(
    pipeline: LatentTextPipeline, prompts: list[str | None], sequences: Tensor
) -> Tensor:
    """Measure how well each token comes back when the latents of its text are noised.

    The latents are noised to three times, the denoiser predicts them without guidance, and the
    decoder reads the predictions. The noise is the same for every text, so that texts differ by
    their tokens alone, and a text has the same figures in any batch.

    Args:
        pipeline: The pipeline.
        prompts: Source of each text.
        sequences: Token ids ``(B, S)``, the pad from the end on.

    Returns:
        Log-probabilities ``(B, S)`` of the tokens and the end token, averaged over the times; 0
        behind the end.
    """
    config = pipeline.autoencoder.config
    ids = with_end(sequences, config.pad_token_id, config.end_token_id)
    latents = pipeline.encode_ids(ids)
    known_latents, known_mask = pipeline.encode_prompts(prompts, truncate=True)
    no_source = ~known_mask.any(dim=1)
    generator = torch.Generator().manual_seed(0)
    noise_shift = noise_shift_of(pipeline.scheduler)
    total = torch.zeros(ids.shape, device=ids.device)
    for time in NOISE_TIMES:
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents)
        t = shift_time(torch.tensor(time), noise_shift).to(latents).expand(len(ids))
        noisy_latents = add_noise(latents, noise.expand_as(latents), t)
        inputs = (noisy_latents, t, known_latents, known_mask, no_source)
        prediction = pipeline.shapes.run(pipeline.denoiser, *inputs)
        log_probs = pipeline.token_logits(prediction).float().log_softmax(dim=-1)
        total += log_probs.gather(2, ids[..., None]).squeeze(2)
    return (total / len(NOISE_TIMES)).masked_fill(ids == config.pad_token_id, 0.0)


@torch.no_grad()
def text_nats(pipeline: TokenPipeline, prompts: list[str | None], ids: Tensor) -> Tensor:
    """Compute ``-log p(text | source)`` under a discrete model, or estimate its bound.

    Where the bound is random, every text is read ``NUM_BOUND_DRAWS`` times beside itself, each time
    from the same source of randomness. Models spread their times evenly over the rows they are
    given, so that the copies of a text take them all, and texts differ by their tokens alone.

    Args:
        pipeline: The pipeline of a model with a likelihood.
        prompts: Source of each text.
        ids: Token ids ``(B, S)`` with the end token.

    Returns:
        Nats ``(B,)``.
    """
    end, pad = pipeline.tokenizer.eos_token_id, pipeline.tokenizer.pad_token_id
    rows = pipeline.tokenize_prompts(prompts, truncate=True)

    def nats(rows: list[list[int]], ids: Tensor) -> Tensor:
        batch = replace(
            prompt_batch(rows, end, ids.device), input_ids=ids, attention_mask=ids != pad
        )
        generator = torch.Generator(ids.device).manual_seed(0)
        return pipeline.token_model.negative_log_likelihood(batch, generator)

    if pipeline.token_model.bound_kind == "exact":
        return nats(rows, ids)
    copies = ids[:, None].expand(-1, NUM_BOUND_DRAWS, -1)
    return torch.stack(
        [nats([row] * NUM_BOUND_DRAWS, text).mean() for row, text in zip(rows, copies, strict=True)]
    )


@torch.no_grad()
def text_scores(
    pipeline: TextPipeline,
    prompts: Sequence[str | None],
    sequences: Tensor,
    counted: Tensor | None = None,
) -> list[float]:
    """Score texts by the model that wrote them; larger is better.

    Texts of different lengths cannot be compared by the mean over all their tokens: long ones say
    little new. What stands around a gap is the same whatever the gap's length, and its
    log-probability given the gap estimates how probable the length is: by Bayes' rule, that of the
    whole without that of the gap given the rest.

    Args:
        pipeline: The pipeline.
        prompts: Source of each text.
        sequences: Token ids ``(B, S)``, the pad from the end on.
        counted: Tokens that count, ``(B, S)``, as many in each text that is compared; ``None``
            counts all up to the end.

    Returns:
        For each text the mean over its counted tokens of ``token_log_probs``, in nats. A discrete
        model gives the log-likelihood of the whole text, or an estimate of its bound, over their
        number; equal texts with equal sources have equal scores.

    Raises:
        ValueError: If the model has no likelihood.
    """
    check_has_score(pipeline)
    pad, end = pipeline.tokenizer.pad_token_id, pipeline.tokenizer.eos_token_id
    ids = with_end(sequences, pad, end)
    is_counted = ids != pad if counted is None else counted & (ids != pad)
    num_tokens = is_counted.sum(dim=1).clamp(min=1)
    if isinstance(pipeline, TokenPipeline):
        return (-text_nats(pipeline, list(prompts), ids) / num_tokens).tolist()
    log_probs = token_log_probs(pipeline, list(prompts), sequences)
    return ((log_probs * is_counted).sum(dim=1) / num_tokens).tolist()


def check_has_score(pipeline: TextPipeline) -> None:
    """Refuse a model that cannot tell which of its texts is more probable.

    Raises:
        ValueError: If it is such a one.
    """
    if isinstance(pipeline, TokenPipeline) and pipeline.token_model.bound_kind is None:
        raise ValueError(
            f"{type(pipeline.token_model).__name__} has no likelihood to choose among candidates "
            "by: give each gap a fixed length, or choose by agreement."
        )
