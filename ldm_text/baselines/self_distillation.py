"""Self-distillation through time: a masked model learns to take several steps of its own in one.

SDTT (Deschenaux and Gulcehre 2024, arXiv:2410.21035). The teacher goes down from a noisy text in
small ancestral steps, and the student, which only sees where it started, is drawn towards what the
teacher predicted for each token when it unmasked it.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from denoiser.teacher import draw_points
from ldm_text.baselines.masked import MaskedDiffusionModel
from ldm_text.baselines.sampling import draw_categories
from ldm_text.baselines.sequences import TokenBatch

Divergence = Literal["reverse", "forward"]


@torch.no_grad()
def teacher_targets(
    predict: Callable[[Tensor], Tensor],
    ids: Tensor,
    point: Tensor,
    num_teacher_steps: int,
    mask_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Let a teacher go one step of the student's grid down in several small steps.

    On a grid of ``N`` steps a text at point ``i`` has been masked up to time ``i / N``. In ``k``
    steps to point ``i - 1`` a masked token is revealed with probabilities ``1 / (k i)``,
    ``1 / (k i - 1)``, ..., as by the ancestral sampler with ``k N`` steps.

    Args:
        predict: Maps noisy ids ``(B, S)`` to the teacher's log-probabilities ``(B, S, V)``.
        ids: Noisy texts ``(B, S)``.
        point: Their points, 1 or larger, ``(B,)``.
        num_teacher_steps: Steps of the teacher, ``k``.
        mask_token_id: Id of a masked token.

    Returns:
        Log-probabilities ``(B, S, V)`` that the teacher drew each token from, void where it drew
        none; and True where it did, ``(B, S)``.
    """
    # Where nothing is drawn stands a prediction, too: gradients there must be numbers.
    targets = log_probs = predict(ids)
    is_unmasked = torch.zeros_like(ids, dtype=torch.bool)
    for step in range(num_teacher_steps):
        if step:
            log_probs = predict(ids)
        reveal_prob = 1 / (num_teacher_steps * point - step)
        is_now = (ids == mask_token_id) & (
            torch.rand(ids.shape, device=ids.device) < reveal_prob[:, None]
        )
        targets = torch.where(is_now[..., None], log_probs, targets)
        ids = torch.where(is_now, draw_categories(log_probs.exp(), None), ids)
        is_unmasked = is_unmasked | is_now
    return targets, is_unmasked


def token_divergence(student: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    """Compute the Kullback-Leibler divergence between predictions of each token, ``(B, S)``.

    Args:
        student: Log-probabilities of the student, ``(B, S, V)``.
        teacher: Those of the teacher; tokens that cannot be have ``-inf`` in both.
        divergence: ``reverse`` is that of the student from the teacher, whose least value over
            several teachers their normalized geometric mean has; ``forward`` that of the teacher
            from the student, least at their arithmetic mean.
    """
    is_possible = teacher > -torch.inf
    # Not after the difference: its gradient there would be no number.
    student, teacher = (part.where(is_possible, 0) for part in (student, teacher))
    if divergence == "reverse":
        return (student.exp() * (student - teacher)).sum(dim=-1)
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


class SelfDistillation:
    """Rounds of self-distillation, each of which divides the number of sampling steps.

    The student of a round is the teacher of the next. A student that agrees with its teacher in
    the mean of all its paths (``forward``) predicts what a perfect teacher predicts without any
    step; it is ``reverse`` that makes it surer of its tokens, so that those drawn at once agree.

    Args:
        round_steps: Training steps of each round.
        num_teacher_steps: Steps of the teacher that the student takes in one, ``k``, 2 or larger.
        start_num_inference_steps: Sampling steps of the first teacher; the students of the rounds
            have this number divided by ``k``, by ``k**2``, and so on, down to 1 or more.
        divergence: Which divergence the student minimizes, see ``token_divergence``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        round_steps: list[int],
        num_teacher_steps: int = 2,
        start_num_inference_steps: int = 64,
        divergence: Divergence = "reverse",
    ) -> None:
        if not round_steps or min(round_steps) < 1:
            raise ValueError(f"`round_steps` must be 1 or larger, one a round, got {round_steps}.")
        if num_teacher_steps < 2:
            raise ValueError(f"`num_teacher_steps` must be 2 or larger, got {num_teacher_steps}.")
        factor = num_teacher_steps ** len(round_steps)
        if start_num_inference_steps < 1 or start_num_inference_steps % factor:
            raise ValueError(
                f"`start_num_inference_steps` must be a multiple of {factor}, the factor by which "
                f"{len(round_steps)} rounds divide it, got {start_num_inference_steps}."
            )
        if divergence not in ("reverse", "forward"):
            raise ValueError(f"`divergence` must be 'reverse' or 'forward', got {divergence!r}.")
        self.round_steps = round_steps
        self.num_teacher_steps = num_teacher_steps
        self.start_num_inference_steps = start_num_inference_steps
        self.divergence: Divergence = divergence

    def num_inference_steps(self, round_index: int) -> int:
        """Return the sampling steps of the student of a round, counted from 0."""
        return self.start_num_inference_steps // self.num_teacher_steps ** (round_index + 1)

    def loss(
        self,
        student: MaskedDiffusionModel,
        teacher: MaskedDiffusionModel,
        batch: TokenBatch,
        round_index: int,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Compute the mean divergence, in nats, over the tokens that the teacher unmasks.

        Args:
            student: What learns.
            teacher: What takes the steps.
            batch: Sources and texts.
            round_index: Round, from 0.
            guidance_scale: Guidance of the teacher; the student learns to do without.

        Returns:
            Nats per token, a scalar.
        """
        mask, num_steps = student.config.mask_token_id, self.num_inference_steps(round_index)
        ids = batch.input_ids
        point = draw_points(len(batch), num_steps, ids.device)
        share = (point / num_steps)[:, None]
        noisy_ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < share, mask)
        targets, is_unmasked = teacher_targets(
            lambda noisy: teacher.guided_log_probs(batch, noisy, None, guidance_scale),
            noisy_ids,
            point,
            self.num_teacher_steps,
            mask,
        )
        predicted = student.predict_logits(batch, noisy_ids, None).log_softmax(dim=-1)
        nats = token_divergence(predicted, targets, self.divergence)
        return nats.masked_fill(~is_unmasked, 0).sum() / is_unmasked.sum().clamp(min=1)
