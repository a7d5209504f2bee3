"""What is measured on the texts and latents of an autoencoder, with or without a denoiser."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from autoencoder.diagnostics import (
    decode_all,
    encode_all,
    intervene,
    latent_spectrum,
    midpoint_agreement,
    nearest_neighbours,
    noise_recovery,
    score_decoder,
)
from autoencoder.model import TextAutoencoder
from ldm_text.components import check_special_tokens
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.distances import mauve
from ldm_text.evaluation.embedder import SentenceEmbedder
from ldm_text.tokenizer import encode_texts

NOISE_RATIOS = (0, 0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32)
TIMES = (*(ratio / (1 + ratio) for ratio in NOISE_RATIOS), 1.0)
LEAST_TEXTS = 4  # two halves, with two texts each


class AutoencoderDiagnosis:
    """Texts and their latents, and what is measured on them.

    Args:
        autoencoder: The autoencoder.
        tokenizer: The tokenizer of its training.
        max_length_tokens: Longest text, its end token included; longer ones are left out.
        records: Texts, with their sources if there are any.
        seed: Seed of all noise.
        batch_size: Rows that go through the networks together.

    Raises:
        ValueError: If fewer than four texts are left, or the tokenizer is another.
    """

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        tokenizer: PreTrainedTokenizerFast,
        max_length_tokens: int,
        records: Sequence[TextRecord],
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        check_special_tokens(tokenizer, autoencoder.config, "autoencoder")
        self.autoencoder, self.statistics = autoencoder, autoencoder.statistics
        self.tokenizer, self.seed, self.batch_size = tokenizer, seed, batch_size
        limit, device = max_length_tokens, autoencoder.device
        all_ids = encode_texts(tokenizer, [record.text for record in records])
        rows = [(one, ids) for one, ids in zip(records, all_ids, strict=True) if len(ids) < limit]
        self.num_too_long = len(records) - len(rows)
        if len(rows) < LEAST_TEXTS:
            raise ValueError(
                f"A diagnosis needs at least {LEAST_TEXTS} texts of fewer than {limit} tokens, "
                f"got {len(rows)}."
            )
        self.texts = [record.text for record, _ in rows]
        self.sources = [record.source for record, _ in rows]
        config = autoencoder.config
        padded = [
            [*ids, config.end_token_id] + [config.pad_token_id] * (limit - 1 - len(ids))
            for _, ids in rows
        ]
        self.input_ids = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(ids) + 1 for _, ids in rows], device=device)
        self.attention_mask = torch.arange(limit, device=device) < lengths[:, None]
        self.latents = encode_all(autoencoder, *self.rows, batch_size)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Token ids and masks."""
        return self.input_ids, self.attention_mask

    @property
    def generator(self) -> torch.Generator:
        """A source of noise that begins anew, so that no part depends on another."""
        return torch.Generator().manual_seed(self.seed)

    def score(self, latents: Tensor) -> dict[str, float]:
        """Score the decoder on latents of the texts, of whatever origin."""
        return score_decoder(self.autoencoder, latents, *self.rows, self.batch_size)

    def noised(self) -> list[dict[str, Any]]:
        """Measure what the decoder alone recovers from noise: ``noise_recovery`` at ``TIMES``."""
        return noise_recovery(
            self.autoencoder, self.latents, *self.rows, TIMES, self.generator, self.batch_size
        )

    def decoder(self) -> dict[str, Any]:
        """Measure the decoder on clean and on noised latents."""
        return {"clean": self.score(self.latents), "noised": self.noised()}

    def interventions(self) -> dict[str, dict[str, float]]:
        """Score the decoder with latents that are exchanged, see ``intervene``."""
        return intervene(
            self.autoencoder, self.latents, *self.rows, self.generator, self.batch_size
        )

    def spectrum(self) -> dict[str, Any]:
        """Describe the spectrum of all latents that hold text."""
        return latent_spectrum(self.latents[self.autoencoder.latent_mask(self.attention_mask)])

    def midpoints(self, embedder: SentenceEmbedder | None) -> dict[str, Any]:
        """Decode midpoints between neighbours among every second text.

        The texts between are those that ``imauve`` compares the midpoint texts with, if there is an
        embedder; ``imauve_ceiling`` compares the ends themselves with them.
        """
        ids, mask = self.input_ids[::2], self.attention_mask[::2]
        latents, ends, held_out = self.latents[::2], self.texts[::2], self.texts[1::2]
        neighbours = nearest_neighbours(latents, ids)
        midpoints = (latents + latents[neighbours]) / 2
        midpoint_ids = decode_all(self.autoencoder, midpoints, self.batch_size)
        result: dict[str, Any] = {"num_pairs": len(ends)}
        result |= midpoint_agreement(midpoint_ids, ids, mask, neighbours)
        texts = self.tokenizer.batch_decode(self.cut(midpoint_ids), skip_special_tokens=True)
        if embedder is not None:
            features = [embedder.embed(part) for part in (texts, ends, held_out)]
            result["imauve"] = mauve(features[0], features[2])
            result["imauve_ceiling"] = mauve(features[1], features[2])
        others = neighbours.tolist()
        result["examples"] = [
            {"text": ends[row], "midpoint": texts[row], "neighbour": ends[others[row]]}
            for row in np.linspace(0, len(ends) - 1, min(5, len(ends)), dtype=int).tolist()
        ]
        return result

    def cut(self, ids: Tensor) -> Tensor:
        """Put the pad behind the first end token of each row."""
        config = self.autoencoder.config
        ended = (ids == config.end_token_id).cumsum(dim=1) > 0
        return ids.masked_fill(ended, config.pad_token_id)
