"""Known latents inside a text: where they stand in training, and how a denoiser is given them.

Replacing predictions at known places (RePaint) tells the denoiser of them only through what it has
predicted itself. A denoiser with ``infill_prob`` sees them clean from the first step on, as the
partial noising of DiffuSeq (Gong et al. 2023) shows a source, at any places of the text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoencoder.model import TextAutoencoder
from denoiser.model import LatentDenoiser

NUM_LAYOUTS = 4


@dataclass(frozen=True)
class KnownLatents:
    """Latents of a text that are known.

    Attributes:
        latents: Clean standardized latents ``(B, L, D)``; void where ``mask`` is False.
        mask: True at known latents, ``(B, L)``.
    """

    latents: Tensor
    mask: Tensor

    def put(self, noisy_latents: Tensor) -> Tensor:
        """Write the known latents over noisy ones, ``(B, L, D)``."""
        return torch.where(self.mask[..., None], self.latents, noisy_latents)

    def map(self, change: Callable[[Tensor], Tensor]) -> "KnownLatents":
        """Change both tensors alike, such as taking rows of them."""
        return KnownLatents(change(self.latents), change(self.mask))


def predict(
    denoiser: LatentDenoiser,
    known: KnownLatents | None,
    noisy_latents: Tensor,
    *inputs: Tensor | None,
    next_t: Tensor | None = None,
) -> Tensor:
    """Call a denoiser, and give it known latents if it takes any.

    Args:
        denoiser: The network; one without ``infill_prob`` sees all latents noisy.
        known: Known latents of the text, a row for each row of the batch.
        noisy_latents: ``(B, L, D)``.
        inputs: The other arguments of its ``forward``, up to ``self_condition``.
        next_t: Times ``(B,)`` to which a flow map is to lead; others are given none.

    Returns:
        Predicted clean latents ``(B, L, D)``.
    """
    options = {} if next_t is None else {"next_t": next_t}
    if known is None or not denoiser.config.infill_prob:
        return denoiser(noisy_latents, *inputs, **options)
    return denoiser(known.put(noisy_latents), *inputs, clean_mask=known.mask, **options)


@torch.no_grad()
def encode_known(
    autoencoder: TextAutoencoder, input_ids: Tensor, attention_mask: Tensor, mask: Tensor
) -> KnownLatents:
    """Encode the known parts of texts by themselves: their latents see nothing of the rest.

    The encoder reads a latent in the context of its text; what is not known is hidden from it as
    what stands behind the end of a text is. So training gives no more away than sampling has.

    Args:
        autoencoder: The autoencoder.
        input_ids: Token ids ``(B, S)``; void where nothing is known.
        attention_mask: True up to the end token, ``(B, S)``; void where nothing is known.
        mask: True at known latents, ``(B, L)``.
    """
    is_known = mask.repeat_interleave(autoencoder.config.tokens_per_latent, dim=1)
    latents = autoencoder.encode(input_ids, attention_mask.bool() & is_known)
    return KnownLatents(autoencoder.statistics.standardize(latents), mask)


def draw_known_mask(is_text: Tensor, prob: float) -> Tensor:
    """Draw which latents of a training batch are known.

    A row gets one of four layouts: a prefix of its text, the rest of unknown length; a suffix up to
    the end; both sides of one gap; or single latents at random, their share drawn, too, with or
    without the length of the text. The latents behind the end of a text are known where its length
    is. Prefix, suffix and the single latents may come out empty, as a text without known parts is.

    Args:
        is_text: True at latents that hold text or its end, the first ones of each row, ``(B, L)``.
        prob: Share of rows that get a layout, in [0, 1].

    Returns:
        True at known latents, ``(B, L)``.
    """
    (num_rows, num_latents), device = is_text.shape, is_text.device
    places = torch.arange(num_latents, device=device)
    length = is_text.sum(dim=1, keepdim=True)
    draws = torch.rand(4, num_rows, 1, device=device)
    start = (draws[0] * length).long()
    stop = start + 1 + (draws[1] * (length - start)).long()  # of a gap, not empty, in the text
    suffix_start = 1 + (draws[1] * length).long()
    scattered = torch.rand(is_text.shape, device=device) < draws[0]
    layouts = torch.stack(
        (
            places < start,
            places >= suffix_start,
            (places < start) | (places >= stop),
            torch.where(is_text, scattered, draws[1] < 0.5),
        )
    )
    layout = (draws[2, :, 0] * NUM_LAYOUTS).long()
    chosen = layouts[layout, torch.arange(num_rows, device=device)]
    return chosen & (draws[3] < prob)
