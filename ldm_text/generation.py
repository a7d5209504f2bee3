"""What every generator of text offers, latent, discrete and autoregressive alike."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ldm_text.known_tokens import KnownTokens

if TYPE_CHECKING:
    from ldm_text.token_control import TokenChange

Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class GenerationOutput:
    """What a generator returns; texts stand in the order of the prompts, samples side by side.

    Attributes:
        texts: One string a row; empty if the output type is not ``"text"``.
        sequences: Token ids ``(B, S)``, the pad token behind the end; ``None`` for ``"latent"``.
        num_network_calls: How often the network ran on the batch, one call after the other.
        latents: Standardized latents ``(B, L, D)``; ``None`` where the model has none.
        changes: For each row, the tokens that self-correction has changed, in the order of the
            steps; ``None`` without self-correction.
        row_network_calls: For each row, how many of the calls it took part in; ``None`` where no
            row can leave the batch before the others.
    """

    texts: list[str]
    sequences: Tensor | None
    num_network_calls: int
    latents: Tensor | None = None
    changes: "list[list[TokenChange]] | None" = None
    row_network_calls: list[int] | None = None


class TextGenerator(Protocol):
    """Write texts for prompts."""

    def generate(
        self,
        prompts: list[str | None],
        num_samples: int = 1,
        generator: Generators = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        truncate: bool = False,
        known_tokens: KnownTokens | None = None,
        label: str | list[str | None] | None = None,
    ) -> GenerationOutput:
        """Generate ``num_samples`` texts for each prompt, in one batch.

        Args:
            prompts: One source a row; ``None`` for a row without.
            num_samples: Texts for each prompt; they stand side by side.
            generator: One source of randomness, or one for each row. With one per row, a row's text
                is the same in any batch.
            num_inference_steps: Calls of the network after each other; ``None`` takes the
                generator's own number.
            guidance_scale: Weight of classifier-free guidance, 1 is off; ``None`` takes the
                generator's own.
            truncate: Cut prompts that are too long instead of refusing them.
            known_tokens: Tokens that the texts must hold, a row for each prompt; the sequences
                of the output hold every one of them.
            label: Label of the texts, one for all prompts or one for each, for models that were
                trained with labels; ``None`` where the prompts begin with theirs.

        Raises:
            ValueError: If an argument is out of range, or has no effect for this generator, or the
                generator cannot keep such tokens.
        """
        ...
