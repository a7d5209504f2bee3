"""What a baseline is: a network over tokens, a training loss, a bound and a sampler."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from ldm_text.baselines.network import TokenTransformer
from ldm_text.baselines.sequences import TokenBatch
from ldm_text.generation import Generators
from ldm_text.known_tokens import KnownTokens

BoundKind = Literal["exact", "upper bound"]
KnownTokenSupport = Literal["any", "prefix", "none"]


class TokenModel(ModelMixin, ConfigMixin):
    """A family of baselines.

    Its constructor takes ``vocab_size``, the sizes of the network and, with defaults,
    ``pad_token_id``, ``end_token_id`` and ``mask_token_id``, all kept in ``config``.

    Attributes:
        bound_kind: What ``negative_log_likelihood`` is: the exact value, an upper bound, or
            ``None`` where the family has neither.
        sampler_options: Names of the options of ``generate_ids`` beside those of its signature.
        takes_num_inference_steps: Whether the number of calls at generation can be chosen.
        known_token_support: Which known tokens ``generate_ids`` can keep: ``any``; ``prefix`` for
            those that a text begins with, and its end; or ``none``.
        network: What runs once a step.
    """

    bound_kind: ClassVar[BoundKind | None] = None
    sampler_options: ClassVar[tuple[str, ...]] = ()
    takes_num_inference_steps: ClassVar[bool] = True
    known_token_support: ClassVar[KnownTokenSupport] = "none"
    network: TokenTransformer

    @abstractmethod
    def loss(self, batch: TokenBatch) -> Tensor:
        """Compute the training loss of a batch, a scalar."""

    @abstractmethod
    def negative_log_likelihood(
        self, batch: TokenBatch, generator: torch.Generator | None = None
    ) -> Tensor:
        """Compute ``-log p(text | source)`` of each row, or an estimate of an upper bound.

        Args:
            batch: Sources and texts.
            generator: Randomness of the estimate.

        Returns:
            Nats, ``(B,)`` in float32, of a text with its end token. Where pad tokens are modelled
            like others their cost is in it: the bound then holds for text and padding together.
        """

    def check_sampling(
        self, num_tokens: int, num_inference_steps: int | None = None, **options: Any
    ) -> None:
        """Refuse options that do not go together, before anything is computed.

        Args:
            num_tokens: Longest text, its end token included.
            num_inference_steps: Calls of the network after each other.
            options: Those of ``sampler_options`` that are set, each of them in its range.

        Raises:
            ValueError: If one does not go with another one, or has no effect beside it.
        """

    @abstractmethod
    def generate_ids(
        self,
        batch: TokenBatch,
        num_tokens: int,
        generator: Generators,
        num_inference_steps: int | None = None,
        *args: Any,
        known_tokens: KnownTokens | None = None,
        **options: Any,
    ) -> tuple[Tensor, int]:
        """Write texts.

        Args:
            batch: Sources, from ``prompt_batch``.
            num_tokens: Longest text, its end token included, ``S``.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Calls of the network after each other.
            args: As ``options``; every family names its own.
            known_tokens: Tokens that the texts must hold, ``(B, S)``, of the kind that
                ``known_token_support`` tells.
            options: Those of ``sampler_options``.

        Returns:
            Token ids ``(B, S)``, what stands behind the first end token is void; and how often the
            network ran.
        """
