"""When a text is done before its steps are: its tokens have settled."""

import torch
from torch import Tensor

from ldm_text.sampler_options import check_number


class TokenPatience:
    """Tell which texts of a batch have not changed for some steps, and are certain enough.

    The patience criterion of Vaina et al. (2023, "Diffusion Language Models Generation Can Be
    Halted Early"), for each text by itself. It holds the texts that are not done yet.

    Args:
        patience: Steps after each other in which the text has not changed, at least 1.
        min_confidence: Least probability that each of its tokens must have, in [0, 1].
    """

    def __init__(self, patience: int, min_confidence: float = 0.0) -> None:
        self.patience, self.min_confidence = patience, min_confidence
        self.ids: Tensor | None = None
        self.num_unchanged: Tensor | None = None

    def update(self, ids: Tensor, confidence: Tensor) -> Tensor:
        """Look at the texts after a step.

        Args:
            ids: Token ids ``(B, S)``, the pad behind the end; the rows that were not done.
            confidence: Probability of the least probable token of each latent, ``(B, L)``.

        Returns:
            True for texts that are done, ``(B,)``; they must not come again.
        """
        if self.ids is None or self.num_unchanged is None:
            num_unchanged = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        else:
            is_same = (ids == self.ids).all(dim=1)
            num_unchanged = torch.where(is_same, self.num_unchanged + 1, 0)
        is_certain = confidence.amin(dim=1) >= self.min_confidence
        is_done = (num_unchanged >= self.patience) & is_certain
        self.ids, self.num_unchanged = ids[~is_done], num_unchanged[~is_done]
        return is_done


def token_patience(
    stop_patience: int | None, stop_confidence: float | None
) -> TokenPatience | None:
    """Make the criterion of the options of a call; ``None`` where texts take all their steps.

    Raises:
        ValueError: If an option is out of range or has no effect.
    """
    if stop_patience is None:
        if stop_confidence is not None:
            raise ValueError("`stop_confidence` has no effect without `stop_patience`.")
        return None
    if stop_patience not in range(1, 1001):
        raise ValueError(f"`stop_patience` must be between 1 and 1000 steps, got {stop_patience}.")
    bound = 0.0 if stop_confidence is None else stop_confidence
    check_number("stop_confidence", bound)
    return TokenPatience(stop_patience, bound)
