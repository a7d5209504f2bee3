"""Train a baseline with Lightning; one module for all families."""

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from autoencoder.schedule import ScheduleName, with_schedule
from autoencoder.seeded_steps import SeededSteps
from ldm_text.baselines.sequences import TokenBatch, token_batch
from ldm_text.baselines.token_model import TokenModel


class LitTokenModel(SeededSteps):
    """Train a baseline on rows of text, with their sources where there are any.

    Args:
        token_model: The baseline as a ``class_path``.
        optimizer: Optimizer as a ``class_path``.
        cond_drop_prob: Share of rows trained without their source; needed for guidance.
        warmup_steps: Steps of linear warm-up of the learning rate.
        lr_schedule: Course of the learning rate after the warm-up, until ``trainer.max_steps``.
        compile_network: Compile the network with ``torch.compile``.
    """

    takes_16_bit_weights = True

    def __init__(
        self,
        token_model: TokenModel,
        optimizer: OptimizerCallable,
        cond_drop_prob: float = 0.0,
        warmup_steps: int = 100,
        lr_schedule: ScheduleName = "cosine",
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= cond_drop_prob <= 1:
            raise ValueError(f"`cond_drop_prob` must be between 0 and 1, got {cond_drop_prob}.")
        self.save_hyperparameters()
        self.token_model = token_model
        self.optimizer = optimizer
        self.cond_drop_prob = cond_drop_prob
        self.warmup_steps = warmup_steps
        self.lr_schedule = lr_schedule
        self.compile_network = compile_network

    def on_fit_start(self) -> None:
        """Compile in place, so that the names in the checkpoint stay the same."""
        if self.compile_network:
            self.token_model.network.compile()

    def arranged(self, batch: dict[str, Tensor]) -> TokenBatch:
        """Put the sources before the texts."""
        return token_batch(batch, self.token_model.config.end_token_id)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute and log the loss."""
        rows = self.arranged(batch)
        if self.cond_drop_prob:
            is_dropped = torch.rand(len(rows), device=self.device) < self.cond_drop_prob
            rows = rows.without_sources(is_dropped, self.token_model.config.end_token_id)
        loss = self.token_model.loss(rows)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    # The last batch is smaller: a compiled network would be compiled once more for it.
    @torch.compiler.set_stance("force_eager")
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss, and nats per token under a name that tells whether they are a bound."""
        rows = self.arranged(batch)
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)  # the same noise every time
            loss = self.token_model.loss(rows)
            self.log("val/loss", loss, batch_size=len(rows), sync_dist=True)
        if self.token_model.bound_kind is None:
            return
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        nats = self.token_model.negative_log_likelihood(rows, generator).sum()
        name = "val/nll" if self.token_model.bound_kind == "exact" else "val/nll_bound"
        num_tokens = rows.attention_mask.sum()
        options = {"batch_size": int(num_tokens), "sync_dist": True}
        self.log(name, nats / num_tokens, prog_bar=True, **options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer and its schedule."""
        optimizer = self.optimizer(self.parameters())
        return with_schedule(self, optimizer, self.lr_schedule, self.warmup_steps)
