"""What a sampler of masked diffusion works with: predictions, draws, and the count of calls."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_text.baselines.sampling import draw_categories, token_probs, uniform
from ldm_text.generation import Generators


class TokenPredictor:
    """Predict the tokens of noisy texts, and draw from the prediction.

    Args:
        predict: Maps noisy ids ``(B, S)`` to log-probabilities ``(B, S, V)``.
        mask_token_id: Id of a token that is not yet visible.
        generator: One source of randomness, or one for each row.
        temperature: Divides the log-probabilities of what is drawn; 0 takes the likeliest token.
        top_p: Draw among the likeliest tokens that together have this probability.

    Attributes:
        num_calls: How often the network ran.
    """

    def __init__(
        self,
        predict: Callable[[Tensor], Tensor],
        mask_token_id: int,
        generator: Generators,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        self.predict = predict
        self.mask_token_id = mask_token_id
        self.generator = generator
        self.temperature = temperature
        self.top_p = top_p
        self.num_calls = 0

    def log_probs(self, ids: Tensor) -> Tensor:
        """Run the network on noisy texts ``(B, S)``: log-probabilities ``(B, S, V)``."""
        self.num_calls += 1
        return self.predict(ids)

    def probs(self, log_probs: Tensor) -> Tensor:
        """Turn log-probabilities into those that tokens are drawn from, float64 ``(B, S, V)``."""
        return token_probs(log_probs, self.temperature, self.top_p)

    def draw(self, probs: Tensor) -> Tensor:
        """Draw a token at each position, visible ones included: ``(B, S)``.

        The same amount of randomness is used at each call, whatever is done with the tokens: so a
        row never depends on the other rows of its batch.
        """
        return draw_categories(probs, self.generator)

    def draw_nothing(self, ids: Tensor) -> Tensor:
        """Use the randomness of ``draw`` without a draw, and return the ids as they are."""
        self.uniform(ids)
        return ids

    def predict_and_draw(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Predict noisy texts ``(B, S)`` and draw a token at each position.

        Where nothing is masked in any row the network does not run, but randomness is used all the
        same: a row alone must be what it is beside others.

        Returns:
            Log-probabilities ``(B, S, V)``, none where the network did not run; and tokens
            ``(B, S)``.
        """
        if not bool((ids == self.mask_token_id).any()):
            return torch.zeros(*ids.shape, 0, device=ids.device), self.draw_nothing(ids)
        log_probs = self.log_probs(ids)
        return log_probs, self.draw(self.probs(log_probs))

    def uniform(self, ids: Tensor) -> Tensor:
        """Draw a number in [0, 1) for each position, ``(B, S)``."""
        return uniform(tuple(ids.shape), self.generator, ids.device)
