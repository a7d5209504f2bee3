"""From text to standardized latents and back: what a pipeline and its verbs share."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from autoencoder.model import TextAutoencoder
from denoiser.fixed_shapes import FixedShapes
from denoiser.infilling import KnownLatents, encode_known
from ldm_text.known_tokens import KnownTokens
from ldm_text.labels import check_labels, labels_of
from ldm_text.prompts import tokenize_prompts
from ldm_text.source_fields import SourceFields


class TextLatents:
    """The part of a pipeline that encodes and decodes.

    Attributes:
        tokenizer: Texts to token ids.
        autoencoder: Token ids to latents.
        config: Has ``max_length_tokens``, ``max_source_length_tokens``, ``source_separator``.
        device: Where the networks are.
        shapes: Shapes that the networks run at, if they are compiled.
    """

    tokenizer: PreTrainedTokenizerFast
    autoencoder: TextAutoencoder
    config: Any
    device: torch.device
    shapes = FixedShapes()

    def tokenize_prompts(
        self, prompts: list[str | None], truncate: bool = False
    ) -> list[list[int]]:
        """Tokenize sources as ``ldm_text.prompts.tokenize_prompts`` does, with this model's limit.

        Raises:
            ValueError: If a prompt is too long, or has no label where all must have one.
        """
        check_labels(labels_of(self.config), prompts)
        limit = self.config.max_source_length_tokens
        fields = SourceFields(
            self.config.source_separator, self.autoencoder.config.tokens_per_latent
        )
        return tokenize_prompts(self.tokenizer, prompts, limit, truncate, fields)

    def encode_prompts(
        self, prompts: list[str | None], truncate: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Encode source texts as known latents; the arguments are those of ``tokenize_prompts``.

        Returns:
            Standardized latents ``(B, K, D)``, and True where they hold text, ``(B, K)``.
        """
        config = self.autoencoder.config
        rows = self.tokenize_prompts(prompts, truncate)
        width = self.shapes.source_length(
            max(map(len, rows)), config.tokens_per_latent, self.config.max_source_length_tokens
        )
        padded = [row + [config.pad_token_id] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self.device)
        attention_mask = ids != config.pad_token_id
        latents = self.shapes.run(self.autoencoder.encode, ids, attention_mask)
        known_mask = self.autoencoder.latent_mask(attention_mask)
        return self.autoencoder.statistics.standardize(latents), known_mask

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Encode texts ``(B, S)`` with their end tokens as standardized latents ``(B, L, D)``.

        What stands behind the first end token of a row has no influence.
        """
        is_text = self.autoencoder.text_mask(ids)
        latents = self.shapes.run(self.autoencoder.encode, ids, is_text)
        return self.autoencoder.statistics.standardize(latents)

    def encode_known_tokens(self, known: KnownTokens) -> KnownLatents | None:
        """Encode the latents of texts that hold known tokens only; ``None`` if there are none."""
        config = self.autoencoder.config
        mask = known.is_known.unflatten(1, (-1, config.tokens_per_latent)).all(dim=2)
        if not bool(mask.any()):
            return None

        def encode(*rows: Tensor) -> Tensor:
            return encode_known(self.autoencoder, *rows).latents

        is_text = known.ids != config.pad_token_id
        return KnownLatents(self.shapes.run(encode, known.ids, is_text, mask), mask)

    def token_logits(self, latents: Tensor, known: KnownTokens | None = None) -> Tensor:
        """Decode standardized latents ``(B, L, D)`` to logits ``(B, S, V)``.

        Tokens that ``known`` forbids have the logit minus infinity.
        """
        latents = self.autoencoder.statistics.unstandardize(latents)
        logits = self.shapes.run(self.autoencoder.decode, latents)
        if known is None:
            return logits
        config = self.autoencoder.config
        return known.mask_logits(
            logits, config.pad_token_id, config.end_token_id, config.mask_token_id
        )

    def decode_ids(self, latents: Tensor, known: KnownTokens | None = None) -> Tensor:
        """Decode standardized latents to ids ``(B, S)`` with their end tokens; known ones are kept.

        What stands behind the end of a text is void.
        """
        ids = self.token_logits(latents, known).argmax(dim=-1)
        return ids if known is None else known.put(ids)

    def decode_latents(self, latents: Tensor, known: KnownTokens | None = None) -> Tensor:
        """Decode standardized latents ``(B, L, D)`` to ids ``(B, S)``, the pad behind the end.

        The end token, too, stands as the pad. All tokens that ``known`` holds come out as they are.
        """
        config = self.autoencoder.config
        ids = self.decode_ids(latents, known)
        ended = (ids == config.end_token_id).cumsum(dim=1) > 0
        return ids.masked_fill(ended, config.pad_token_id)

    def clamp_latents(self, latents: Tensor, known: KnownTokens | None = None) -> Tensor:
        """Replace latents ``(B, L, D)`` by those of the text that they decode to."""
        return self.encode_ids(self.decode_ids(latents, known))

    def texts_of(self, sequences: Tensor) -> list[str]:
        """Write token ids ``(B, S)`` as texts; special tokens leave no trace."""
        return self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
