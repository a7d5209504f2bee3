"""Train a masked model of few steps with Lightning, from a trained one."""

import copy
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from denoiser.rounds import ROUND, check_rounds, round_at, with_rounds
from ldm_text.baselines.masked import MaskedDiffusionModel
from ldm_text.baselines.pretrained import PretrainedTokenModel
from ldm_text.baselines.self_distillation import SelfDistillation
from ldm_text.baselines.training import LitTokenModel


class LitSelfDistillation(LitTokenModel):
    """Train a student, a copy of its teacher at the start, to sample in few steps.

    The learning rate warms up and falls linearly to 0 in each round. Validation measures the
    student as what it still is, a masked diffusion model: its bound rises as it gets surer.

    Args:
        token_teacher: A trained ``MaskedDiffusionModel``: the first teacher, and the student's
            start.
        objective: The rounds, and what the student learns in them.
        optimizer: Optimizer as a ``class_path``.
        guidance_scale: Guidance of the first teacher, which the student has folded in; 1 is off.
        cond_drop_prob: Share of rows trained without their source, for texts without a prompt.
        warmup_steps: Steps of linear warm-up of the learning rate in each round.
        compile_network: Compile the networks with ``torch.compile``.

    Raises:
        ValueError: If the model is no ``MaskedDiffusionModel``.
    """

    can_be_sharded: ClassVar[bool] = False
    token_model: MaskedDiffusionModel

    def __init__(
        self,
        token_teacher: PretrainedTokenModel,
        objective: SelfDistillation,
        optimizer: OptimizerCallable,
        guidance_scale: float = 1.0,
        cond_drop_prob: float = 0.0,
        warmup_steps: int = 10,
        compile_network: bool = False,
    ) -> None:
        trained = token_teacher.token_model
        if not isinstance(trained, MaskedDiffusionModel):
            raise ValueError(
                "`token_teacher` must be a MaskedDiffusionModel, the only one whose steps reveal "
                f"tokens for good, got {type(trained).__name__}."
            )
        super().__init__(
            trained,
            optimizer,
            cond_drop_prob,
            warmup_steps,
            compile_network=compile_network,
        )
        self.teacher = copy.deepcopy(trained).eval().requires_grad_(False)
        self.objective = objective
        self.guidance_scale = guidance_scale
        self.round_index = 0

    @property
    def num_inference_steps(self) -> int:
        """The sampling steps that the student is trained for, in its present round."""
        return self.objective.num_inference_steps(self.round_index)

    @property
    def kind_of_step(self) -> int:
        """The round, which the operations of a step depend on: only the first is guided."""
        return round_at(self.global_step, self.objective.round_steps)

    def on_fit_start(self) -> None:
        """Compile in place, and check the rounds.

        Raises:
            ValueError: If training or warm-up is too long for them, or weights are averaged.
        """
        super().on_fit_start()
        if self.compile_network:
            self.teacher.network.compile()
        check_rounds(self.trainer, self.objective.round_steps, self.warmup_steps)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the student be the teacher where a new round begins; seed the step."""
        super().on_train_batch_start(batch, batch_idx)
        self.teacher.eval()
        if (index := round_at(self.global_step, self.objective.round_steps)) > self.round_index:
            self.teacher.load_state_dict(self.token_model.state_dict())
            self.round_index = index
            rank_zero_info(f"Round {index}: {self.num_inference_steps} sampling steps.")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute and log the divergence of the student from its teacher."""
        rows = self.arranged(batch)
        if self.cond_drop_prob:
            is_dropped = torch.rand(len(rows), device=self.device) < self.cond_drop_prob
            rows = rows.without_sources(is_dropped, self.token_model.config.end_token_id)
        # Later teachers are students, which have guidance folded in.
        guidance_scale = 1.0 if self.round_index else self.guidance_scale
        loss = self.objective.loss(
            self.token_model, self.teacher, rows, self.round_index, guidance_scale
        )
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the round."""
        checkpoint[ROUND] = self.round_index

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in the round of the checkpoint."""
        self.round_index = checkpoint[ROUND]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer, and a learning rate that falls to 0 in each round."""
        optimizer = self.optimizer(self.token_model.parameters())
        return with_rounds(self, optimizer, self.objective.round_steps, self.warmup_steps)
