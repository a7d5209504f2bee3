"""Train students of few steps with Lightning, on a trained denoiser as the teacher."""

import copy
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from autoencoder.schedule import number_of_steps
from denoiser.clamping import Clamping
from denoiser.distillation import ConsistencyDistillation, ProgressiveDistillation
from denoiser.flow_map import FlowMapDistillation
from denoiser.loading import PretrainedDenoiser
from denoiser.model import LatentDenoiser
from denoiser.rounds import ROUND, check_rounds, round_at, with_rounds
from denoiser.schedulers import SamplingDefaults
from denoiser.teacher import DistillationRows, Teacher
from denoiser.training import LitDenoiser


def trainable_copy(
    denoiser: LatentDenoiser, latent_dim: int, flow_map: bool = False
) -> LatentDenoiser:
    """Copy a denoiser, with gradients; its latents have the width that it was trained for.

    Args:
        denoiser: The denoiser to copy.
        latent_dim: That width.
        flow_map: Make a flow map of the copy, which predicts the same as long as it is not trained.
    """
    if not flow_map or denoiser.config.flow_map:
        return copy.deepcopy(denoiser).requires_grad_(True)
    # diffusers counts arguments that were given by position among those to leave out.
    options = {k: v for k, v in denoiser.config.items() if k != "_use_default_values"}
    student = LatentDenoiser.from_config(options | {"flow_map": True})
    student.load_state_dict(student.state_dict() | denoiser.state_dict())
    return student


class LitDistillation(LitDenoiser):
    """Train a student, a copy of its teacher at the start, to sample in few steps.

    The learning rate warms up and falls linearly to 0 in each round, so that each round ends with a
    finished student, and averaged weights (``denoiser.EMAWithWarmup``) are not needed; where there
    are several rounds they are refused, as they would carry a round into the next.

    Args:
        teacher: A trained denoiser; its autoencoder and noise shift are the student's.
        objective: What the student learns, ``ProgressiveDistillation``,
            ``ConsistencyDistillation`` or ``FlowMapDistillation``, as a ``class_path``.
        optimizer: Optimizer as a ``class_path``.
        guidance_scale: Guidance of the teacher, which the student has folded in; 1 is off.
        clamp_start: Share of the steps, in [0, 1], after which the teacher clamps its predictions,
            and the student's pipeline by default; 1 is never.
        cond_drop_prob: Share of rows trained without their source, for texts without a prompt.
        self_condition_prob: Share of rows that see their own earlier prediction.
        warmup_steps: Steps of linear warm-up of the learning rate in each round.
        compile_network: Compile the networks with ``torch.compile``.
        cache_latents: As in ``LitDenoiser``.
        latent_cache_dir: As in ``LitDenoiser``.
    """

    can_be_sharded: ClassVar[bool] = False

    def __init__(
        self,
        teacher: PretrainedDenoiser,
        objective: ProgressiveDistillation | ConsistencyDistillation | FlowMapDistillation,
        optimizer: OptimizerCallable,
        guidance_scale: float,
        clamp_start: float = 1.0,
        cond_drop_prob: float = 0.1,
        self_condition_prob: float = 0.5,
        warmup_steps: int = 50,
        compile_network: bool = False,
        cache_latents: bool = False,
        latent_cache_dir: str | None = None,
    ) -> None:
        if teacher.denoiser.config.infill_prob:
            raise ValueError(
                "The teacher was trained with `infill_prob` above 0: its student would lose how to "
                "write beside known text, which the objectives of distillation do not show it."
            )
        if not 0 <= clamp_start <= 1:
            raise ValueError(f"`clamp_start` must be between 0 and 1, got {clamp_start}.")
        super().__init__(
            denoiser=partial(trainable_copy, teacher.denoiser, flow_map=objective.makes_flow_map),
            autoencoder=teacher.autoencoder,
            optimizer=optimizer,
            noise_shift=teacher.noise_shift,
            cond_drop_prob=cond_drop_prob,
            self_condition_prob=self_condition_prob,
            warmup_steps=warmup_steps,
            compile_network=compile_network,
            cache_latents=cache_latents,
            latent_cache_dir=latent_cache_dir,
        )
        clamping = Clamping(self.autoencoder, clamp_start) if clamp_start < 1 else None
        self.teacher = Teacher(teacher.denoiser, teacher.noise_shift, guidance_scale, clamping)
        self.objective = objective
        self.guidance_scale = guidance_scale
        self.clamp_start = clamp_start
        self.round_index = 0

    @property
    def sampling(self) -> SamplingDefaults:
        """Sampling as the student is trained for it, in its present round."""
        num_steps = self.objective.num_inference_steps(self.round_index)
        return SamplingDefaults(self.objective.scheduler, num_steps, 1.0, self.clamp_start)

    @property
    def round_steps(self) -> list[int]:
        """Training steps of each round."""
        return self.objective.round_steps or [number_of_steps(self.trainer)]

    @property
    def kind_of_step(self) -> int:
        """The round, which the operations of a step depend on: how far the teacher walks."""
        return round_at(self.global_step, self.round_steps)

    def on_fit_start(self) -> None:
        """Compile in place, and check the rounds.

        Raises:
            ValueError: If training or warm-up is too long for them, or weights are averaged.
        """
        super().on_fit_start()
        if self.compile_network:
            self.teacher.denoiser.compile()
        check_rounds(self.trainer, self.round_steps, self.warmup_steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the student be the teacher where a new round begins; seed the step."""
        super().on_train_batch_start(batch, batch_idx)
        if (index := round_at(self.global_step, self.round_steps)) > self.round_index:
            self.teacher.denoiser.load_state_dict(self.denoiser.state_dict())
            self.begin_round(index)
            steps = self.sampling.num_inference_steps
            rank_zero_info(f"Round {self.round_index + 1}: a student of {steps} sampling steps.")

    def begin_round(self, index: int) -> None:
        """Set the round; only the first teacher is guided, students have guidance folded in."""
        self.round_index = index
        self.teacher.guide(self.guidance_scale if index == 0 else 1.0)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the objective's loss of a batch of rows."""
        latents = self.latents(batch, "input")
        known_latents, known_mask = self.known_latents(batch, latents)
        is_kept = torch.rand(len(latents), 1, device=latents.device) >= self.cond_drop_prob
        rows = DistillationRows(latents, known_latents, known_mask & is_kept)
        return self.objective.loss(
            self.denoiser, self.teacher, rows, self.round_index, self.self_condition_prob
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the round."""
        checkpoint[ROUND] = self.round_index

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in the round of the checkpoint."""
        self.begin_round(checkpoint[ROUND])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer, and a learning rate that falls to 0 in each round."""
        optimizer = self.optimizer(self.denoiser.parameters())
        return with_rounds(self, optimizer, self.round_steps, self.warmup_steps)
