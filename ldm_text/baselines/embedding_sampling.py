"""Generation of diffusion in the space of embeddings, over a scheduler of diffusers."""

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ldm_text.baselines.sequences import TokenBatch
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens

if TYPE_CHECKING:
    from ldm_text.baselines.embedding_diffusion import EmbeddingDiffusionModel

EmbeddingSamplerName = Literal["ddpm", "ddim"]
ETAS: dict[EmbeddingSamplerName, float] = {"ddpm": 1.0, "ddim": 0.0}  # share of posterior noise


def spaced_timesteps(num_train_timesteps: int, num_inference_steps: int) -> Tensor:
    """Choose evenly spaced timesteps, rising, the noisiest among them: ``(num_inference_steps,)``.

    Raises:
        ValueError: If there are fewer timesteps than steps.
    """
    if num_inference_steps > num_train_timesteps:
        raise ValueError(
            "`num_inference_steps` must be at most the number of timesteps of the training, "
            f"{num_train_timesteps}, got {num_inference_steps}."
        )
    steps = torch.arange(1, num_inference_steps + 1)
    return steps * num_train_timesteps // num_inference_steps - 1


def make_scheduler(alphas_cumprod: Tensor) -> DDIMScheduler:
    """Make a scheduler that steps through exactly these shares of signal, from the last one on.

    The stock scheduler looks for the next timestep at an integer distance, and misses it where the
    number of steps does not divide that of the timesteps; so it gets a schedule of its own, as in
    Nichol and Dhariwal (2021, arXiv:2102.09672, section 4). With ``eta=1`` its steps are those of
    the DDPM posterior, whose noise the bound has.

    Args:
        alphas_cumprod: Shares ``(N,)``, falling.
    """
    betas = 1 - alphas_cumprod / F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
    scheduler = DDIMScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        clip_sample=False,
        prediction_type="sample",
    )
    scheduler.set_timesteps(len(betas))
    return scheduler


def guided_embeddings(
    model: "EmbeddingDiffusionModel",
    batch: TokenBatch,
    noisy: Tensor,
    timesteps: Tensor,
    self_condition: Tensor | None,
    guidance_scale: float,
) -> Tensor:
    """Predict clean embeddings, guided away from those without a source (Ho and Salimans 2022).

    Both predictions come from one doubled batch, and at scale 1 there is one prediction only.

    Args:
        model: The model.
        batch: Sources.
        noisy: Noisy embeddings ``(B, S, D)``.
        timesteps: Their timesteps ``(B,)``.
        self_condition: The last prediction ``(B, S, D)``.
        guidance_scale: Weight of the guidance.

    Returns:
        Embeddings ``(B, S, D)``.
    """
    if guidance_scale == 1:
        return model.predict_embeddings(batch, noisy, timesteps, self_condition)
    both = batch.beside_null(model.config.end_token_id)
    noisy, timesteps = torch.cat((noisy, noisy)), torch.cat((timesteps, timesteps))
    if self_condition is not None:
        self_condition = torch.cat((self_condition, self_condition))
    pred_cond, pred_uncond = model.predict_embeddings(both, noisy, timesteps, self_condition).chunk(
        2
    )
    return pred_uncond.lerp(pred_cond, guidance_scale)


def sample_embeddings(
    model: "EmbeddingDiffusionModel",
    batch: TokenBatch,
    num_tokens: int,
    generator: Generators,
    num_inference_steps: int,
    sampler: EmbeddingSamplerName = "ddpm",
    clamp_start: float = 1.0,
    guidance_scale: float = 1.0,
    known: KnownTokens | None = None,
) -> Tensor:
    """Turn noise into embeddings.

    Args:
        model: The model.
        batch: Sources.
        num_tokens: Length of the texts, ``S``.
        generator: One source of randomness, or one for each row.
        num_inference_steps: Steps of the scheduler.
        sampler: ``ddpm`` draws from the posterior at each step, ``ddim`` adds no noise.
        clamp_start: Share of the steps, in [0, 1], after which predictions are moved to the nearest
            embeddings.
        guidance_scale: Weight of classifier-free guidance.
        known: Tokens that the texts must hold, ``(B, S)``.

    Returns:
        The last prediction ``(B, S, D)``.

    Raises:
        ValueError: If there is no such sampler, or an argument is out of range.
    """
    if sampler not in ETAS:
        raise ValueError(f"`sampler` must be one of {', '.join(ETAS)}, got {sampler!r}.")
    if not 0 <= clamp_start <= 1:
        raise ValueError(f"`clamp_start` must be between 0 and 1, got {clamp_start}.")
    device = batch.source_ids.device
    timesteps = spaced_timesteps(model.config.num_train_timesteps, num_inference_steps).to(device)
    scheduler = make_scheduler(model.alphas_cumprod(device)[timesteps])
    shape = (len(batch), num_tokens, model.config.embedding_dim)
    noisy, predicted = randn_tensor(shape, generator=generator, device=device), None
    for step, index in enumerate(scheduler.timesteps):
        now = timesteps[index].expand(len(batch))
        predicted = guided_embeddings(model, batch, noisy, now, predicted, guidance_scale)
        if step >= clamp_start * num_inference_steps:
            predicted = model.embed(model.nearest_ids(predicted, known))
        elif known is not None:
            kept = model.embed(known.put(torch.zeros_like(known.ids)))
            predicted = torch.where(known.is_known[..., None], kept, predicted)
        noisy = scheduler.step(
            predicted, index, noisy, eta=ETAS[sampler], generator=generator, return_dict=False
        )[0]
    return noisy
