"""A classifier of noisy latents: which class has the text that they came from?"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from autoencoder.transformer import RMSNorm, Transformer
from denoiser.model import time_features
from denoiser.noise import linear_estimate


class LatentClassifier(ModelMixin, ConfigMixin):
    """Tell the class of a text from its noisy latents, at any amount of noise.

    It reads the best linear estimate of the clean latents in the place of the noisy ones. What the
    Bayes-optimal classifier of two Gaussian classes multiplies that with hardly depends on the
    noise, and its gradient stays finite up to pure noise, see ``attribute_guidance``.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int,
        attribute: str,
        labels: list[str],
        latent_space: str,
        hidden_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 2,
    ) -> None:
        """Create the model; fresh, it finds all classes equally probable.

        Args:
            latent_dim: Channels of one latent.
            attribute: What the classes are of, such as ``toxicity``.
            labels: Names of the classes.
            latent_space: Name of the latents that it reads, see ``latent_space_id``.
            hidden_dim: Width of the transformer.
            num_layers: Number of transformer blocks.
            num_heads: Attention heads of each block.
        """
        super().__init__()
        self.projection = nn.Linear(latent_dim, hidden_dim)
        self.time_embedding = nn.Sequential(
            nn.Linear(256, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU()
        )
        self.transformer = Transformer(hidden_dim, num_layers, num_heads, time_conditioned=True)
        self.out_norm = RMSNorm(hidden_dim)
        self.out = nn.Linear(hidden_dim, len(labels))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def classify_estimate(self, estimate: Tensor, t: Tensor) -> Tensor:
        """Classify linear estimates ``(B, L, D)`` of the clean latents; returns logits ``(B, C)``.

        Near pure noise they are near zero: the embedded time keeps the norms from blowing them up.
        """
        time = self.time_embedding(time_features(t, 256))
        hidden = self.projection(estimate) + time[:, None]
        positions = torch.arange(estimate.shape[1], device=estimate.device)
        hidden = self.transformer(hidden, positions, None, time)
        return self.out(self.out_norm(hidden).mean(dim=1)).float()

    def forward(self, noisy_latents: Tensor, t: Tensor) -> Tensor:
        """Classify texts.

        Args:
            noisy_latents: ``(B, L, D)`` at times ``t``, in standardized space; latents behind the
                end of a text are noisy too, and are read like any others.
            t: Times ``(B,)`` in [0, 1].

        Returns:
            Logits of the classes, ``(B, C)``, float32.
        """
        return self.classify_estimate(linear_estimate(noisy_latents, t), t)
