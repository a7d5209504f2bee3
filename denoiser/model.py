"""The denoiser: a transformer over the known latents and the noisy ones, in one sequence."""

import math
from typing import Literal, get_args

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from autoencoder.transformer import RMSNorm, Transformer
from denoiser.noise import velocity_to_latents

PredictionType = Literal["sample", "flow_prediction"]


def time_features(t: Tensor, num_features: int) -> Tensor:
    """Embed times ``(B,)`` in [0, 1] as sines and cosines ``(B, num_features)``."""
    half = num_features // 2
    frequencies = torch.exp(
        -math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    )
    angles = 1000.0 * t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def step_embedding(hidden_dim: int) -> nn.Sequential:
    """Make the embedding of the length of a step, 0 when fresh: a student starts as its teacher."""
    last = nn.Linear(hidden_dim, hidden_dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(256, hidden_dim), nn.SiLU(), last)


class LatentDenoiser(ModelMixin, ConfigMixin):
    """Predict the clean latents of a text from noisy ones and from known latents.

    Known text is one mechanism: clean latents that stand in the same sequence, told apart by a
    segment embedding. A learned null in their place is the unconditional branch.
    """

    _repeated_blocks = ("TransformerBlock",)  # what `compile_repeated_blocks` compiles

    @register_to_config
    def __init__(
        self,
        latent_dim: int,
        hidden_dim: int = 384,
        num_layers: int = 6,
        num_heads: int = 6,
        infill_prob: float = 0.0,
        prediction_type: PredictionType = "sample",
        flow_map: bool = False,
    ) -> None:
        """Create the model; fresh, it predicts the best linear estimate for unit-variance latents.

        Args:
            latent_dim: Channels of one latent.
            hidden_dim: Width of the transformer.
            num_layers: Number of transformer blocks.
            num_heads: Attention heads of each block.
            infill_prob: Share of training rows of which a part is known: a prefix, a suffix, both
                sides of a gap, or single latents. Above 0 the model takes known latents inside the
                text, too, see ``clean_mask`` of ``forward``.
            prediction_type: What the last layer stands for: ``sample`` corrects the best linear
                estimate of the clean latents, by which the noise of the input is known;
                ``flow_prediction`` is the velocity ``noise - latents``, 0 for a fresh model. Either
                way the model returns clean latents.
            flow_map: Take the time that a step leads to, see ``next_t`` of ``forward``; for
                students of ``FlowMapDistillation``, which set it.
        """
        super().__init__()
        if not 0 <= infill_prob <= 1:
            raise ValueError(f"`infill_prob` must be between 0 and 1, got {infill_prob}.")
        if prediction_type not in get_args(PredictionType):
            names = " or ".join(get_args(PredictionType))
            raise ValueError(f"`prediction_type` must be {names}, got '{prediction_type}'.")
        self.noisy_projection = nn.Linear(2 * latent_dim, hidden_dim)
        self.known_projection = nn.Linear(latent_dim, hidden_dim)
        self.null_latent = nn.Parameter(torch.randn(latent_dim))
        # 0 the source, 1 noisy latents of the text, 2 known ones
        self.segment_embedding = nn.Embedding(3 if infill_prob else 2, hidden_dim)
        self.time_embedding = nn.Sequential(
            nn.Linear(256, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU()
        )
        self.transformer = Transformer(hidden_dim, num_layers, num_heads, time_conditioned=True)
        self.out_norm = RMSNorm(hidden_dim)
        self.out = nn.Linear(hidden_dim, latent_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.step_embedding = step_embedding(hidden_dim) if flow_map else None

    def null_condition(self, known_mask: Tensor) -> Tensor:
        """Mask that leaves of ``(B, K)`` known positions only the first, where the null stands."""
        first = torch.arange(known_mask.shape[1], device=known_mask.device) == 0
        return first.expand_as(known_mask)

    def embed_time(self, t: Tensor, next_t: Tensor | None) -> Tensor:
        """Embed times ``(B,)``, and how far a flow map is to go from there, ``(B, hidden_dim)``.

        Raises:
            ValueError: If ``next_t`` is given to a model that is no flow map.
        """
        embedding = self.time_embedding(time_features(t, 256))
        if self.step_embedding is None:
            if next_t is not None:
                raise ValueError(
                    "`next_t`, and the scheduler 'flow_map', need a student of "
                    "FlowMapDistillation: this denoiser has no `flow_map`."
                )
            return embedding
        length = torch.zeros_like(t) if next_t is None else t - next_t
        return embedding + self.step_embedding(time_features(length, 256))

    def forward(
        self,
        noisy_latents: Tensor,
        t: Tensor,
        known_latents: Tensor,
        known_mask: Tensor,
        is_null: Tensor,
        self_condition: Tensor | None = None,
        clean_mask: Tensor | None = None,
        next_t: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean latents.

        Args:
            noisy_latents: ``(B, L, D)`` at time ``t``, in standardized space.
            t: Times ``(B,)`` in [0, 1].
            known_latents: Clean standardized latents ``(B, K, D)`` of the source, ``K >= 1``.
            known_mask: True at known latents that hold text, ``(B, K)``.
            is_null: True for rows ``(B,)`` whose known latents give way to the learned null.
            self_condition: An earlier prediction of clean latents, ``(B, L, D)``; ``None`` is 0.
            clean_mask: True where ``noisy_latents`` are in truth clean and known, ``(B, L)``; for
                models with ``infill_prob``.
            next_t: Times ``(B,)`` up to ``t`` to which a flow map is to lead; ``None`` is ``t``.

        Returns:
            Predicted clean latents ``(B, L, D)`` in float32; known ones come out as they are. Those
            of a flow map lie where the straight line through its landing at ``next_t`` ends:
            ``noisy_latents - t * u``, with the average velocity ``u`` between both times. At ``t``
            that is the prediction of an ordinary denoiser, at 0 the end of the flow.

        Raises:
            ValueError: If latents of the text are known to a model without ``infill_prob``.
        """
        if clean_mask is not None and self.segment_embedding.num_embeddings < 3:
            raise ValueError("`clean_mask` needs a denoiser with `infill_prob` above 0.")
        num_known, num_latents = known_latents.shape[1], noisy_latents.shape[1]
        if self_condition is None:
            self_condition = torch.zeros_like(noisy_latents)
        # For unit-variance data the noisy latents have this root mean square (Karras et al. 2022,
        # section 5, with the coefficients of the straight path).
        time = t.float()[:, None, None]
        scale = ((1 - time) ** 2 + time**2).sqrt()

        known_latents = torch.where(is_null[:, None, None], self.null_latent, known_latents)
        known_mask = torch.where(is_null[:, None], self.null_condition(known_mask), known_mask)
        known = self.known_projection(known_latents) + self.segment_embedding.weight[0]
        noisy_input = torch.cat((noisy_latents / scale, self_condition), dim=-1)
        noisy = self.noisy_projection(noisy_input) + self.segment_embedding.weight[1]
        if clean_mask is not None:
            clean = self.known_projection(noisy_latents) + self.segment_embedding.weight[2]
            noisy = torch.where(clean_mask[..., None], clean, noisy)

        # Both segments count from 0, so that padding of the source moves nothing.
        positions = torch.cat(
            (torch.arange(num_known, device=t.device), torch.arange(num_latents, device=t.device))
        )
        visible = torch.cat((known_mask, known_mask.new_ones(len(t), num_latents)), dim=1)
        hidden = self.transformer(
            torch.cat((known, noisy), dim=1),
            positions,
            visible[:, None, None, :],
            self.embed_time(t, next_t),
        )
        residual = self.out(self.out_norm(hidden[:, num_known:])).float()
        if self.config.prediction_type == "flow_prediction":
            prediction = velocity_to_latents(residual, noisy_latents.float(), t.float())
        else:
            prediction = (1 - time) / scale**2 * noisy_latents.float() + time / scale * residual
        if clean_mask is None:
            return prediction
        return torch.where(clean_mask[..., None], noisy_latents.float(), prediction)
