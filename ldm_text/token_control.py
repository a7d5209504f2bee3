"""What happens to the latents of a text at each step: clamping, known tokens, self-correction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from denoiser.attribute_guidance import AttributeTarget, guide_to_attributes
from denoiser.infilling import KnownLatents
from denoiser.noise import add_noise
from denoiser.sampling import StepControl
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens
from ldm_text.stopping import TokenPatience
from ldm_text.text_latents import TextLatents


@dataclass(frozen=True)
class TokenChange:
    """A token of a text that came out otherwise than one step before.

    Attributes:
        step: Number of the step, from 0.
        position: Place of the token in the text, from 0.
        before: Token id one step before.
        after: Token id now.
    """

    step: int
    position: int
    before: int
    after: int


class TokenControl(StepControl):
    """Hold predictions to known tokens, to the latents of a text, or send doubtful ones back.

    A latent that holds a known token is replaced at each step by that of the decoded text in which
    the known tokens stand: replacement where all its tokens are known, clamping in token space
    where some are. Latents without known tokens are left alone until clamping starts.

    Args:
        texts: Encodes and decodes.
        clamp_start: Share of the steps after which all latents are clamped, in [0, 1].
        known: Known tokens of the batch.
        self_correction: Share of a text's latents that get new noise after each step, those with
            the least probable tokens, in [0, 1); 0 is off.
        generator: Source of that noise; one, or one for each row.
        clean: Latents that a denoiser with ``infill_prob`` is given clean; its predictions there
            are replaced all the same, by what they are in the context of the whole text.
        patience: Which texts are done before the last step; ``None`` lets all take their steps.
        targets: Classes that the texts are guided to.

    Attributes:
        changes: For each row, the tokens that self-correction has changed.
        num_calls: For each row that was done before the last step, the steps that it took.
    """

    def __init__(
        self,
        texts: TextLatents,
        clamp_start: float,
        known: KnownTokens | None = None,
        self_correction: float = 0.0,
        generator: Generators = None,
        clean: KnownLatents | None = None,
        patience: TokenPatience | None = None,
        targets: Sequence[AttributeTarget] = (),
    ) -> None:
        self.texts = texts
        self.clamp_start = clamp_start
        self.known = None if known is None or known.is_empty else known
        self.holds_tokens = self.known is not None and bool(self.known.is_known.any())
        self.self_correction = self_correction
        self.generator = generator
        self.clean = clean
        self.patience = patience
        self.targets = targets
        self.changes: list[list[TokenChange]] = []
        self.num_calls: dict[int, int] = {}
        self.rows: list[int] | None = None  # those that go on, once any are done
        self.ids: Tensor | None = None
        self.step = 0

    def guide(self, pred_latents: Tensor, noisy_latents: Tensor, t: Tensor) -> Tensor:
        """Guide predictions to the classes that the texts are to have."""
        return guide_to_attributes(pred_latents, noisy_latents, t, self.targets)

    def adjust(self, pred_latents: Tensor, step: int, num_steps: int) -> Tensor:
        """Clamp the latents that hold known tokens, and all of them after ``clamp_start``."""
        self.step = step
        clamps_all = step >= self.clamp_start * num_steps
        if self.known is None:
            return self.texts.clamp_latents(pred_latents) if clamps_all else pred_latents
        if not clamps_all and not self.holds_tokens:
            return pred_latents  # what is forbidden is left out when the text is decoded
        clamped = self.texts.clamp_latents(pred_latents, self.known)
        if clamps_all:
            return clamped
        is_held = self.texts.autoencoder.latent_mask(self.known.is_known)
        return torch.where(is_held[..., None], clamped, pred_latents)

    def renoise(self, noisy_latents: Tensor, pred_latents: Tensor, t: Tensor) -> Tensor:
        """Give the least certain latents new noise, and note which tokens have changed."""
        if self.self_correction == 0:
            return noisy_latents
        confidence, ids = latent_confidence(self.texts, pred_latents, self.known)
        self._note_changes(ids)
        is_doubtful = least_certain(confidence, self.self_correction)
        noise = randn_tensor(
            noisy_latents.shape, generator=self.generator, device=noisy_latents.device
        )
        again = add_noise(pred_latents, noise, t.to(noise).expand(len(noise)))
        return torch.where(is_doubtful[..., None], again, noisy_latents)

    def finished(self, pred_latents: Tensor) -> Tensor | None:
        """Tell which texts have settled, and let go of all that belongs to them."""
        if self.patience is None:
            return None
        confidence, ids = latent_confidence(self.texts, pred_latents, self.known)
        is_done = self.patience.update(ids, confidence)
        rows = self._rows(len(ids))
        done = is_done.tolist()
        self.num_calls |= {row: self.step + 1 for row, end in zip(rows, done, strict=True) if end}
        if any(done):
            self._keep([place for place, end in enumerate(done) if not end], rows)
        return is_done

    def _rows(self, num_rows: int) -> list[int]:
        return list(range(num_rows)) if self.rows is None else self.rows

    def _keep(self, places: list[int], rows: list[int]) -> None:
        """Keep what belongs to some of the rows that are still there."""
        self.rows = [rows[place] for place in places]
        if self.known is not None:
            self.known = self.known.select(places)
        if self.clean is not None:
            self.clean = self.clean.map(lambda part: part[places])
        if self.ids is not None:
            self.ids = self.ids[places]
        if isinstance(self.generator, list):
            self.generator = [self.generator[place] for place in places]

    def _note_changes(self, ids: Tensor) -> None:
        rows = ids.tolist()
        if self.ids is None:
            self.changes = [[] for _ in rows]
        else:
            for row, before, after in zip(
                self._rows(len(rows)), self.ids.tolist(), rows, strict=True
            ):
                self.changes[row] += token_changes(self.step, before, after)
        self.ids = ids


def token_changes(step: int, before: list[int], after: list[int]) -> list[TokenChange]:
    """List the positions at which two rows of token ids differ."""
    pairs = zip(before, after, strict=True)
    return [TokenChange(step, i, old, new) for i, (old, new) in enumerate(pairs) if old != new]


def latent_confidence(
    texts: TextLatents, latents: Tensor, known: KnownTokens | None = None
) -> tuple[Tensor, Tensor]:
    """Tell how certain the decoder is of the tokens in each latent.

    Args:
        texts: Encodes and decodes.
        latents: Standardized latents ``(B, L, D)``.
        known: Known tokens, which are certain.

    Returns:
        Probability of the least probable token of each latent, ``(B, L)``, 1 where all are known or
        stand behind the end; and the decoded ids ``(B, S)``, the pad behind the end.
    """
    config = texts.autoencoder.config
    best = texts.token_logits(latents, known).softmax(dim=-1).max(dim=-1)
    ids, certain = best.indices, best.values
    if known is not None:
        ids, certain = known.put(ids), certain.masked_fill(known.is_known, 1.0)
    certain = certain.masked_fill(~texts.autoencoder.text_mask(ids), 1.0)
    ended = (ids == config.end_token_id).cumsum(dim=1) > 0
    ids = ids.masked_fill(ended, config.pad_token_id)
    return certain.unflatten(1, (-1, config.tokens_per_latent)).amin(dim=2), ids


def least_certain(confidence: Tensor, share: float) -> Tensor:
    """Mark the least certain latents of each row, ``(B, L)`` boolean.

    Args:
        confidence: Probabilities ``(B, L)``; what is entirely certain is never marked.
        share: Share of the others that is marked, rounded up.
    """
    is_open = confidence < 1
    num_marked = (is_open.sum(dim=1, keepdim=True) * share).ceil()
    rank = confidence.argsort(dim=1).argsort(dim=1)
    return (rank < num_marked) & is_open
