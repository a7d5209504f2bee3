"""Train the autoencoder with Lightning."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from autoencoder.alignment import AlignmentLoss, LatentAlignment
from autoencoder.checkpoint_buffers import paths_of_step, put_into_checkpoint
from autoencoder.corruption import LatentCorruption, mask_tokens
from autoencoder.frozen import FrozenEncoderAutoencoder
from autoencoder.last_step import is_validation_due, validate_now
from autoencoder.model import TextAutoencoder
from autoencoder.ranges import check_shares
from autoencoder.schedule import ScheduleName, with_schedule
from autoencoder.seeded_steps import SeededSteps
from autoencoder.token_states import SpecialTokens
from autoencoder.variational import KLPenalty, VariationalAutoencoder


class LitAutoencoder(SeededSteps):
    """Reconstruct packed texts through masked tokens and corrupted latents.

    The loss is the cross-entropy; a variational autoencoder and an alignment add a term each.

    Args:
        autoencoder: The network.
        corruption: What happens to the latents between encoder and decoder.
        max_token_mask_prob: Largest share of masked input tokens; each row draws its own share.
        optimizer: Optimizer as a ``class_path``.
        warmup_steps: Steps of linear warm-up of the learning rate.
        lr_schedule: Course of the learning rate after the warm-up, until ``trainer.max_steps``.
        compile_network: Compile encoder and decoder with ``torch.compile``.
        kl: What divergence costs; for a ``VariationalAutoencoder``, and only for one.
        alignment: A frozen encoder whose states the latents are to follow, if any.

    Raises:
        ValueError: If a share is out of range, or ``kl`` and the autoencoder do not fit.
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
        kl: KLPenalty | None = None,
        alignment: LatentAlignment | None = None,
    ) -> None:
        super().__init__()
        check_shares(max_token_mask_prob=max_token_mask_prob)
        if isinstance(autoencoder, VariationalAutoencoder) != (kl is not None):
            raise ValueError(
                "`kl` and `autoencoder.VariationalAutoencoder` need each other, got "
                f"{type(autoencoder).__name__} {'without' if kl is None else 'with'} `kl`."
            )
        self.save_hyperparameters()
        self.autoencoder = autoencoder
        self.corruption = corruption
        self.optimizer = optimizer
        self.max_token_mask_prob = max_token_mask_prob
        self.warmup_steps = warmup_steps
        self.lr_schedule = lr_schedule
        self.compile_network = compile_network
        self.kl = kl
        self.alignment_loss: AlignmentLoss | None = None
        if alignment is not None:
            config = autoencoder.config
            ids = (config.pad_token_id, config.end_token_id, config.mask_token_id)
            sizes = (config.latent_dim, config.tokens_per_latent)
            self.alignment_loss = alignment.make_loss(*sizes, SpecialTokens(*ids))
        self.validation_latents: list[Tensor] = []
        self.measured_step: int | None = None  # whose weights the statistics are of

    def setup(self, stage: str) -> None:
        """Tell who reads words the text of each token, where the data module knows it."""
        super().setup(stage)
        datamodule = getattr(self.trainer, "datamodule", None)
        for reader in (self.autoencoder, self.alignment_loss):
            is_reader = isinstance(reader, FrozenEncoderAutoencoder | AlignmentLoss)
            if is_reader and hasattr(datamodule, "token_texts"):
                reader.set_token_texts(datamodule.token_texts)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the texts of the tokens where latents depend on them."""
        if isinstance(self.autoencoder, FrozenEncoderAutoencoder):
            checkpoint["token_texts"] = self.autoencoder.config.token_texts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the texts of the tokens."""
        if checkpoint.get("token_texts") is not None:
            self.autoencoder.set_token_texts(checkpoint["token_texts"])

    def on_fit_start(self) -> None:
        """Compile in place, so that the names in the checkpoint stay the same."""
        if self.compile_network:
            self.autoencoder.encoder.compile()
            self.autoencoder.decoder.compile()

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the step, of packed texts."""
        check_is_packed(batch)
        super().on_train_batch_start(batch, batch_idx)

    def on_validation_batch_start(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take packed texts alone."""
        check_is_packed(batch)

    def on_train_start(self) -> None:
        """Validate now if it was due when the checkpoint was written: that changes the statistics.

        Lightning writes a step's checkpoint before its validation, which it skips when resumed.
        """
        if self.global_step and is_validation_due(self.trainer):
            validate_now(self.trainer)

    def on_train_end(self) -> None:
        """Validate if the last step was not: its checkpoint has no statistics of its weights."""
        if self.trainer.enable_validation and self.measured_step != self.global_step:
            validate_now(self.trainer)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the cross-entropy of the real tokens of a packed batch, and what is added."""
        masked_ids = mask_tokens(
            batch["input_ids"], self.max_token_mask_prob, self.autoencoder.config.mask_token_id
        )
        latents, terms = self.training_latents(masked_ids, batch)
        logits = self.autoencoder.decode(
            self.corruption(latents), document_ids=batch["document_ids"]
        )
        loss = reconstruction_loss(logits, batch)
        if terms:
            self.log("train/reconstruction", loss)
            for name, term in terms.items():
                self.log(f"train/{name}", term)
                loss = loss + term
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def training_latents(
        self, masked_ids: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode a batch, and compute what its latents add to the loss.

        Returns:
            Latents ``(B, L, D)`` with a root mean square of 1, and terms of the loss by name.
        """
        mask, terms = batch["attention_mask"], {}
        columns = (masked_ids, mask, batch["document_ids"])
        is_text = self.autoencoder.latent_mask(mask)
        if self.kl is not None and isinstance(self.autoencoder, VariationalAutoencoder):
            posterior = self.autoencoder.posterior(*columns)
            sample = posterior.sample()
            latents = F.rms_norm(sample, sample.shape[-1:], eps=1e-6)  # no noise is scaled away
            terms["kl"] = self.kl(posterior, is_text, mask.sum())
        else:
            latents = self.autoencoder.encode(*columns)
        if self.alignment_loss is not None:
            terms["alignment"] = self.alignment_loss(latents, batch, is_text)
        return latents, terms

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
        self.measured_step = self.global_step
        # A channel of little spread holds little text; all together have a mean square of 1.
        self.log("val/latent_std_min", statistics.latent_std.min())
        self.log("val/latent_std_max", statistics.latent_std.max())
        self.log("val/latent_mean_norm", statistics.latent_mean.norm())

    def on_validation_end(self) -> None:
        """Put the statistics into the checkpoints of this step, written before its validation."""
        super().on_validation_end()
        if self.trainer.state.fn != TrainerFn.FITTING or not self.trainer.is_global_zero:
            return
        measured = self.autoencoder.statistics.state_dict(prefix="autoencoder.statistics.")
        for path in paths_of_step(self.trainer):
            put_into_checkpoint(self.trainer.strategy.checkpoint_io, path, measured)

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


def check_is_packed(batch: dict[str, Tensor]) -> None:
    """Refuse a batch of another layout than the packed one.

    Raises:
        ValueError: If the batch does not tell which latents are of one text.
    """
    if "document_ids" not in batch:
        raise ValueError(
            "An autoencoder trains on packed texts, and the batches have no `document_ids`: set "
            "`data.init_args.layout` to packed."
        )


def reconstruction_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Average the cross-entropy, in nats, over the real tokens; padding has no part in it.

    Args:
        logits: ``(B, S, V)``.
        batch: With ``input_ids`` and ``attention_mask``, both ``(B, S)``.
    """
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"], -100)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
