"""Contextual states of a frozen pretrained encoder for the tokens of the project."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from autoencoder.frozen_encoder import load_frozen_encoder, load_piece_tokenizer
from autoencoder.word_pieces import NO_PIECE, WordPieces


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the project's tokens that are no text."""

    pad_token_id: int
    end_token_id: int
    mask_token_id: int


@dataclass
class TokenStates:
    """Re-tokenize token ids to word pieces, encode these, and average the states of each token.

    The encoder reads each text as it was trained to: ``[CLS]`` before it, ``[SEP]`` in the place of
    the end token, ``[MASK]`` for a masked token, positions from 0. Texts that are packed into one
    row do not see each other, and padding is not read. Tokenizer and weights are loaded at the
    first use.

    Attributes:
        path: As for ``encoder_folder``.
        token_texts: Text of each token id; ``None`` where they are still to come.
        special: The tokens that are no text.
    """

    path: str
    token_texts: Sequence[str] | None
    special: SpecialTokens

    @cached_property
    def pieces(self) -> WordPieces:
        """The table from tokens to word pieces.

        Raises:
            ValueError: If there are no texts of the tokens.
        """
        if self.token_texts is None:
            raise ValueError(
                f"`{self.path}` reads text: the data module must have `token_texts`, the text of "
                "each token, as TextDataModule has them."
            )
        tokenizer = load_piece_tokenizer(self.path)
        special = {
            self.special.end_token_id: tokenizer.sep_token_id,
            self.special.mask_token_id: tokenizer.mask_token_id,
        }
        return WordPieces(self.token_texts, tokenizer, special)

    @torch.no_grad()
    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, document_ids: Tensor | None = None
    ) -> Tensor:
        """Encode tokens.

        Args:
            input_ids: Token ids ``(B, S)``.
            attention_mask: True at real tokens, ``(B, S)``.
            document_ids: Number of the text each token belongs to, ``(B, S)``; by default each row
                is one text.

        Returns:
            States ``(B, S, W)``, zero where no real token stands.

        Raises:
            ValueError: If a text has more word pieces than the encoder has positions.
        """
        encoder = load_frozen_encoder(self.path, input_ids.device)
        slots = self.slots(input_ids, attention_mask.bool(), document_ids)  # (B, S, 1 + P)
        is_piece = slots != NO_PIECE
        pieces = slots[is_piece]  # (K,), text after text
        if not len(pieces):
            return torch.zeros(*input_ids.shape, encoder.config.hidden_size).to(input_ids.device)

        # One row a text, as the encoder was trained.
        begins = torch.zeros_like(is_piece)
        begins[..., 0] = is_piece[..., 0]
        is_first = begins[is_piece]
        text = is_first.cumsum(dim=0) - 1
        number = torch.arange(len(pieces), device=pieces.device)
        position = number - number[is_first][text]
        shape = (int(text[-1]) + 1, int(position.max()) + 1)
        if shape[1] > encoder.config.max_position_embeddings:
            raise ValueError(
                f"A text has {shape[1]} word pieces, `{self.path}` reads at most "
                f"{encoder.config.max_position_embeddings}: lower `max_length_tokens`."
            )
        ids, mask = pieces.new_zeros(shape), pieces.new_zeros(shape)
        ids[text, position], mask[text, position] = pieces, 1
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state

        # Back to tokens: the mean over the pieces of each.
        place = (is_piece.flatten().cumsum(dim=0) - 1).view_as(slots)[..., 1:].clamp(min=0)
        belongs = is_piece[..., 1:, None]
        own = states[text, position].float()[place] * belongs  # (B, S, P, W)
        return own.sum(dim=2) / belongs.sum(dim=2).clamp(min=1)

    def slots(self, input_ids: Tensor, is_real: Tensor, document_ids: Tensor | None) -> Tensor:
        """Return a place for ``[CLS]`` and the pieces of each token, ``(B, S, 1 + P)``.

        A text may have gaps, where tokens are hidden as those behind its end are.
        """
        begins = torch.zeros_like(is_real)  # a text, or the place of one without tokens
        begins[:, 0] = True
        if document_ids is not None:
            begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        num_before = is_real.cumsum(dim=1) - is_real.long()
        num_before_text = num_before.masked_fill(~begins, 0).cummax(dim=1).values
        is_first = is_real & (num_before == num_before_text)

        pieces = self.pieces.look_up(input_ids, is_real.roll(1, dims=1) & ~begins)
        first = torch.full_like(pieces[..., :1], self.pieces.tokenizer.cls_token_id)
        first = first.masked_fill(~is_first[..., None], NO_PIECE)
        return torch.cat((first, pieces), dim=2).masked_fill(~is_real[..., None], NO_PIECE)
