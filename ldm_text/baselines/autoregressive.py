"""The autoregressive baseline: one token after the other, exact likelihood, cached keys, values."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ldm_text.baselines.autoregressive_sampling import RunningTexts, write_texts
from ldm_text.baselines.known_token_checks import check_prefix
from ldm_text.baselines.network import SOURCE, TEXT, TokenTransformer, text_positions
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.baselines.token_model import BoundKind, KnownTokenSupport, TokenModel
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens


class AutoregressiveModel(TokenModel):
    """Predict each token from the source and the tokens before it.

    With ``bidirectional_source`` the tokens of the source see each other in both directions (a
    prefix language model, Raffel et al. 2020, section 3.2.1), else only those before them.
    """

    bound_kind: ClassVar[BoundKind | None] = "exact"
    sampler_options: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "use_cache")
    takes_num_inference_steps: ClassVar[bool] = False
    known_token_support: ClassVar[KnownTokenSupport] = "prefix"

    @register_to_config
    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 320,
        num_layers: int = 7,
        num_heads: int = 5,
        bidirectional_source: bool = False,
        pad_token_id: int = 0,
        end_token_id: int = 1,
        mask_token_id: int = 2,
    ) -> None:
        """Create the model.

        Args:
            vocab_size: Number of token ids.
            hidden_dim: Width of the transformer.
            num_layers: Number of transformer blocks.
            num_heads: Attention heads of each block.
            bidirectional_source: Let the tokens of the source see each other.
            pad_token_id: Id behind the end of a text.
            end_token_id: Id that closes a text.
            mask_token_id: Id that never stands in a text.
        """
        super().__init__()
        self.network = TokenTransformer(vocab_size, hidden_dim, num_layers, num_heads)

    def attention_mask(self, source_mask: Tensor, num_text: int) -> Tensor:
        """Tell which positions of source and text see each other, ``(B, 1, K + T, K + T)``."""
        num_source = source_mask.shape[1]
        index = torch.arange(num_source + num_text, device=source_mask.device)
        seen = index[:, None] >= index
        if self.config.bidirectional_source:
            is_source = index < num_source
            seen = seen | (is_source[:, None] & is_source)
        is_real = F.pad(source_mask, (0, num_text), value=True)[:, None, None, :]
        itself = index[:, None] == index  # no query without a key
        return seen & is_real | itself

    def text_logits(self, batch: TokenBatch) -> Tensor:
        """Score each token of the text given all before it: ``(B, S, V)``."""
        num_source, num_text = batch.source_ids.shape[1], batch.input_ids.shape[1]
        embedded = torch.cat(
            (
                self.network.embed(batch.source_ids, SOURCE),
                self.network.embed(batch.input_ids[:, :-1], TEXT),
            ),
            dim=1,
        )
        hidden = self.network(
            embedded,
            text_positions(num_source, num_text - 1, embedded.device),
            self.attention_mask(batch.source_mask, num_text - 1),
        )
        return self.token_logits(hidden[:, num_source - 1 :])

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Score tokens; pad and mask are none that could come next."""
        logits = self.network.logits(hidden)
        logits[..., [self.config.pad_token_id, self.config.mask_token_id]] = -torch.inf
        return logits

    def token_losses(self, batch: TokenBatch) -> Tensor:
        """Cross-entropy of each token of the text in nats, ``(B, S)``; 0 at padding."""
        labels = batch.input_ids.masked_fill(~batch.attention_mask, -100)
        logits = self.text_logits(batch).transpose(1, 2)
        return F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")

    def loss(self, batch: TokenBatch) -> Tensor:
        """Average the cross-entropy over the real tokens."""
        return self.token_losses(batch).sum() / batch.attention_mask.sum()

    def negative_log_likelihood(
        self, batch: TokenBatch, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sum the cross-entropy of each text; it is exact and draws nothing."""
        return self.token_losses(batch).sum(dim=1)

    @torch.no_grad()
    def generate_ids(
        self,
        batch: TokenBatch,
        num_tokens: int,
        generator: Generators,
        num_inference_steps: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        use_cache: bool = True,
        known_tokens: KnownTokens | None = None,
    ) -> tuple[Tensor, int]:
        """Draw one token after the other until every text has ended.

        What all texts are known to begin with is read in one call. Texts that have ended leave the
        batch.

        Args:
            batch: Sources.
            num_tokens: Longest text, its end token included.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Must be left out: there is a call for each token.
            temperature: Divides the logits; 0 always takes the likeliest token.
            top_p: Draw among the likeliest tokens that together have this probability.
            use_cache: Keep keys and values; without, all is computed again for each token.
            known_tokens: Tokens that the texts must hold: those that they begin with, the end, and
                pad tokens behind it.

        Raises:
            ValueError: If an argument is out of range or has no effect, or a token is known behind
                one that is not.
        """
        if num_inference_steps is not None:
            raise ValueError(
                "`num_inference_steps` has no effect: an autoregressive model takes a step for "
                f"each token. Leave it out, got {num_inference_steps}."
            )
        known = None if known_tokens is None or known_tokens.is_empty else known_tokens
        if known is not None:
            check_prefix(known, self.config.pad_token_id, self.config.end_token_id)
        texts = RunningTexts(self, batch, num_tokens, use_cache)
        return write_texts(texts, num_tokens, generator, temperature, top_p, known)
