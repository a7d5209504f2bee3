"""Train the autoencoder with Lightning."""

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from autoencoder.corruption import LatentCorruption, mask_tokens
from autoencoder.model import TextAutoencoder
from autoencoder.schedule import ScheduleName, with_schedule
from autoencoder.seeded_steps import SeededSteps


class LitAutoencoder(SeededSteps):
    """Reconstruct packed texts through masked tokens and corrupted latents, by cross-entropy only.

    Args:
        autoencoder: The network.
        corruption: What happens to the latents between encoder and decoder.
        max_token_mask_prob: Largest share of masked input tokens; each row draws its own share.
        optimizer: Optimizer as a ``class_path``.
        warmup_steps: Steps of linear warm-up of the learning rate.
        lr_schedule: Course of the learning rate after the warm-up, until ``trainer.max_steps``.
        compile_network: Compile encoder and decoder with ``torch.compile``.
    """

    def __init__(
        self,
        autoencoder: TextAutoencoder,
        corruption: LatentCorruption,
        optimizer: OptimizerCallable,
        max_token_mask_prob: float = 0.3,
        warmup_steps: int = 50,
        lr_schedule: ScheduleName = "cosine",
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.autoencoder = autoencoder
        self.corruption = corruption
        self.optimizer = optimizer
        self.max_token_mask_prob = max_token_mask_prob
        self.warmup_steps = warmup_steps
        self.lr_schedule = lr_schedule
        self.compile_network = compile_network
        self.validation_latents: list[Tensor] = []

    def on_fit_start(self) -> None:
        """Compile in place, so that the names in the checkpoint stay the same."""
        if self.compile_network:
            self.autoencoder.encoder.compile()
            self.autoencoder.decoder.compile()

    def on_train_start(self) -> None:
        """Validate now if it was due when the checkpoint was written: that changes the statistics.

        Lightning writes a step's checkpoint before its validation, which it skips when resumed.
        """
        loop, fetcher = self.trainer.fit_loop.epoch_loop, self.trainer.fit_loop._data_fetcher
        if self.global_step and fetcher is not None and loop._should_check_val_fx(fetcher):
            self.trainer.validating = True
            loop.val_loop.restarting = False
            loop.val_loop.run()
            self.trainer.training = True

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the cross-entropy of the real tokens of a packed batch."""
        masked_ids = mask_tokens(
            batch["input_ids"], self.max_token_mask_prob, self.autoencoder.config.mask_token_id
        )
        latents = self.autoencoder.encode(
            masked_ids, batch["attention_mask"], batch["document_ids"]
        )
        logits = self.autoencoder.decode(
            self.corruption(latents), document_ids=batch["document_ids"]
        )
        loss = reconstruction_loss(logits, batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    # The last batch is smaller: compiled networks would be compiled once more for it.
    @torch.compiler.set_stance("force_eager")
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure reconstruction from clean and from noisy latents."""
        mask, document_ids = batch["attention_mask"], batch["document_ids"]
        latents = self.autoencoder.encode(batch["input_ids"], mask, document_ids)
        self.validation_latents.append(latents[self.autoencoder.latent_mask(mask)])
        for noise_ratio in (0.0, 1.0):
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(batch_idx))
            noisy = latents + noise_ratio * noise.to(latents)
            logits = self.autoencoder.decode(noisy, document_ids=document_ids)
            correct = (logits.argmax(-1) == batch["input_ids"])[mask]
            name = "val/token_accuracy" if noise_ratio == 0 else "val/token_accuracy_noise_1"
            options = {"batch_size": int(mask.sum()), "sync_dist": True}
            self.log(name, correct.float().mean(), prog_bar=True, **options)
            if noise_ratio == 0:
                self.log("val/reconstruction", reconstruction_loss(logits, batch), **options)

    def on_validation_epoch_end(self) -> None:
        """Keep the latents' statistics up to date: they are saved with the weights."""
        statistics = self.autoencoder.statistics
        statistics.measure(self.of_all_processes(torch.cat(self.validation_latents)))
        self.validation_latents.clear()
        # A channel of little spread holds little text; all together have a mean square of 1.
        self.log("val/latent_std_min", statistics.latent_std.min())
        self.log("val/latent_std_max", statistics.latent_std.max())
        self.log("val/latent_mean_norm", statistics.latent_mean.norm())

    def of_all_processes(self, latents: Tensor) -> Tensor:
        """Join the latents ``(N, D)`` of all processes, whose numbers may differ."""
        if self.trainer.world_size == 1:
            return latents
        count = torch.tensor(len(latents), device=self.device)
        counts = torch.as_tensor(self.all_gather(count)).tolist()
        padded = F.pad(latents, (0, 0, 0, max(counts) - len(latents)))
        parts = zip(self.all_gather(padded), counts, strict=True)
        return torch.cat([part[:count] for part, count in parts])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer and its schedule."""
        optimizer = self.optimizer(self.parameters())
        return with_schedule(self, optimizer, self.lr_schedule, self.warmup_steps)


def reconstruction_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Average the cross-entropy, in nats, over the real tokens; padding has no part in it.

    Args:
        logits: ``(B, S, V)``.
        batch: With ``input_ids`` and ``attention_mask``, both ``(B, S)``.
    """
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"], -100)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
