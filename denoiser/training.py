"""Train the denoiser with Lightning, on the latents of a frozen autoencoder."""

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from autoencoder.loading import PretrainedAutoencoder
from autoencoder.model import TextAutoencoder
from autoencoder.ranges import check_positive, check_shares
from autoencoder.schedule import ScheduleName, with_schedule
from autoencoder.seeded_steps import SeededSteps
from autoencoder.training import reconstruction_loss
from denoiser.ema import EMAWithWarmup
from denoiser.infilling import KnownLatents, draw_known_mask, encode_known
from denoiser.latent_cache import LatentCache
from denoiser.latent_encoding import fill, open_latent_cache
from denoiser.loading import PretrainedDenoiser
from denoiser.loss_options import LossOptions
from denoiser.model import LatentDenoiser
from denoiser.objective import PLAIN, denoising_loss
from denoiser.schedulers import SamplingDefaults
from denoiser.time_bins import MeansByTime

COLUMNS = {"input": ("input_ids", "attention_mask"), "source": ("source_ids", "source_mask")}


class LitDenoiser(SeededSteps):
    """Predict clean latents from noisy ones and from the latents of the source.

    Args:
        denoiser: The network as a ``class_path``; its ``latent_dim`` comes from the autoencoder.
            Or a trained one to go on with, ``PretrainedDenoiser``, beside its own autoencoder.
        autoencoder: A trained autoencoder; it stays frozen.
        optimizer: Optimizer as a ``class_path``.
        noise_shift: Median noise-to-signal ratio of the training noise; sampling uses the same.
        cond_drop_prob: Share of rows trained without their source; needed for guidance.
        self_condition_prob: Share of rows that see their own first prediction.
        warmup_steps: Steps of linear warm-up of the learning rate.
        lr_schedule: Course of the learning rate after the warm-up, until ``trainer.max_steps``.
        compile_network: Compile the networks with ``torch.compile``.
        cache_latents: Keep the training latents, so that each row is encoded once, at the start;
            has no say in a training of less than an epoch.
        latent_cache_dir: Folder for these latents, which processes and runs share and which may be
            larger than the memory; ``None`` keeps them in the memory of each process.
        loss_options: What the loss is beside the plain squared error; ``None`` is nothing.

    Raises:
        ValueError: If an option is out of range or has no effect.
    """

    def __init__(
        self,
        denoiser: Callable[[int], LatentDenoiser] | PretrainedDenoiser,
        autoencoder: PretrainedAutoencoder | TextAutoencoder,
        optimizer: OptimizerCallable,
        noise_shift: float = 4.0,
        cond_drop_prob: float = 0.1,
        self_condition_prob: float = 0.5,
        warmup_steps: int = 100,
        lr_schedule: ScheduleName = "cosine",
        compile_network: bool = False,
        cache_latents: bool = False,
        latent_cache_dir: str | None = None,
        loss_options: LossOptions | None = None,
    ) -> None:
        super().__init__()
        check_positive(noise_shift=noise_shift)
        check_shares(cond_drop_prob=cond_drop_prob, self_condition_prob=self_condition_prob)
        if latent_cache_dir is not None and not cache_latents:
            raise ValueError("`latent_cache_dir` has no effect without `cache_latents: true`.")
        self.save_hyperparameters()
        if isinstance(autoencoder, PretrainedAutoencoder):
            autoencoder = autoencoder.autoencoder
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        if isinstance(denoiser, PretrainedDenoiser):
            self.denoiser = denoiser.to_go_on_with(self.autoencoder)
        else:
            self.denoiser = denoiser(self.autoencoder.config.latent_dim)
        self.optimizer = optimizer
        self.noise_shift = noise_shift
        self.cond_drop_prob = cond_drop_prob
        self.self_condition_prob = self_condition_prob
        self.warmup_steps = warmup_steps
        self.lr_schedule = lr_schedule
        self.compile_network = compile_network
        self.cache_latents = cache_latents
        self.latent_cache_dir = latent_cache_dir
        self.loss_options = PLAIN if loss_options is None else loss_options
        self.cache: LatentCache | None = None
        self.validation_errors = MeansByTime()

    @property
    def sampling(self) -> SamplingDefaults:
        """How a pipeline around the denoiser samples by default; not guided twice."""
        if self.loss_options.guidance_weight:
            return SamplingDefaults(guidance_scale=1.0)
        return SamplingDefaults()

    @property
    def kind_of_step(self) -> int:
        """What the operations of the next training step depend on: whether consistency counts."""
        return int(self.loss_options.consistency_weight_at(self.global_step) > 0)

    @property
    def target_denoiser(self) -> LatentDenoiser:
        """The denoiser with averaged weights; itself where none, or sharded ones, are averaged."""
        # pyrefly: ignore [missing-attribute] - the trainer is given them after it is made
        for callback in self.trainer.callbacks:
            average = callback.averaged if isinstance(callback, EMAWithWarmup) else None
            if isinstance(average, LitDenoiser):
                return average.denoiser
        return self.denoiser

    def train(self, mode: bool = True) -> "LitDenoiser":
        """Switch the denoiser's mode; the autoencoder always stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def on_fit_start(self) -> None:
        """Compile in place, so that the names in the checkpoint stay the same."""
        if self.compile_network:
            self.denoiser.compile()
            self.autoencoder.encoder.compile()
            self.autoencoder.decoder.compile()

    def on_train_start(self) -> None:
        """Fill the cache, if the training comes to any row a second time."""
        trainer, loader = self.trainer, self.trainer.train_dataloader
        num_batches = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        if self.cache_latents and loader is not None and num_batches > trainer.num_training_batches:
            self.cache = self.filled_cache(loader)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")
    def filled_cache(self, loader: DataLoader) -> LatentCache:
        """Encode all training rows that are not in the cache yet."""
        setting = f"{self.trainer.precision} {self.device.type}"
        weights = self.autoencoder.state_dict()
        cache = open_latent_cache(loader, weights, setting, self.latent_cache_dir)
        fill(cache, loader, self.encode_columns, self.trainer)
        return cache

    def encode_columns(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Encode what a batch of the loader has of ``COLUMNS``: ``(B, L, D)`` each."""
        batch = self.trainer.strategy.batch_to_device(batch)
        with self.trainer.precision_plugin.forward_context():
            present = [column for column, (ids, _) in COLUMNS.items() if ids in batch]
            return {column: self.encode(batch, column) for column in present}

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor], column: str) -> Tensor:
        """Encode a column of a batch, ``input`` or ``source``, standardized: ``(B, L, D)``.

        Raises:
            ValueError: If rows hold several documents, which would be encoded as one text.
        """
        if "document_ids" in batch:
            raise ValueError(
                "`data.init_args.layout` must be rows, one text a row, got packed, which is for "
                "training an autoencoder."
            )
        ids, mask = COLUMNS[column]
        latents = self.autoencoder.encode(batch[ids], batch[mask])
        return self.autoencoder.statistics.standardize(latents)

    def latents(self, batch: dict[str, Tensor], column: str) -> Tensor:
        """Look the latents of a column up, or encode it where they are not kept: ``(B, L, D)``."""
        if self.cache is None or not self.training:
            return self.encode(batch, column)
        return self.cache.get(column, batch["row"])

    def known_latents(self, batch: dict[str, Tensor], latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents of the sources and where they hold text, ``(B, K, D)`` and ``(B, K)``.

        Without sources it is one latent a row that holds none, which makes the row follow the null.
        """
        if "source_ids" in batch:
            known_mask = self.autoencoder.latent_mask(batch["source_mask"])
            return self.latents(batch, "source"), known_mask
        known_latents = torch.zeros_like(latents[:, :1])
        return known_latents, torch.zeros_like(known_latents[..., 0], dtype=torch.bool)

    def known_parts(self, batch: dict[str, Tensor], infill_prob: float) -> KnownLatents | None:
        """Draw which parts of texts are known, and encode them; ``None`` at probability 0."""
        if infill_prob == 0:
            return None
        ids, mask = batch["input_ids"], batch["attention_mask"]
        known_mask = draw_known_mask(self.autoencoder.latent_mask(mask), infill_prob)
        return encode_known(self.autoencoder, ids, mask, known_mask)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the denoising loss of a batch of rows; rows without a source see the null.

        Raises:
            ValueError: If guidance is to be folded in for texts without sources, or the network is
                a flow map, which this loss does not train.
        """
        if self.denoiser.config.flow_map:
            raise ValueError("`flow_map` is for students: use LitDistillation to train one.")
        if self.loss_options.guidance_weight and "source_ids" not in batch:
            raise ValueError("`guidance_weight` has no effect for texts without sources.")
        infill_prob = self.denoiser.config.infill_prob if self.training else 0.0
        return self.loss_beside_known(batch, infill_prob)

    def loss_beside_known(self, batch: dict[str, Tensor], infill_prob: float) -> dict[str, Tensor]:
        """Compute the loss where parts of a share of the texts are known."""
        latents = self.latents(batch, "input")
        options = self.loss_options if self.training else PLAIN
        consistency_weight = options.consistency_weight_at(self.global_step)
        losses = denoising_loss(
            self.denoiser,
            latents,
            *self.known_latents(batch, latents),
            self.noise_shift,
            self.cond_drop_prob,
            self.self_condition_prob,
            self.known_parts(batch, infill_prob),
            options,
            consistency_weight,
            self.target_denoiser if consistency_weight else None,
        )
        if not options.decoder_weight:
            return losses
        decoder_loss = self.decoder_loss(losses["pred_latents"], batch)
        total = losses["loss"] + options.decoder_weight * decoder_loss
        return losses | {"loss": total, "decoder_loss": decoder_loss.detach()}

    def decoder_loss(self, pred_latents: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of the tokens decoded from ``(B, L, D)`` standardized, in nats a token."""
        latents = self.autoencoder.statistics.unstandardize(pred_latents)
        return reconstruction_loss(self.autoencoder.decode(latents), batch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Compute and log the loss; what else the objective knows is for callbacks."""
        losses = self.loss(batch)
        self.log("train/loss", losses["loss"], prog_bar=True)
        for name in ("consistency", "decoder_loss"):
            if name in losses:
                self.log(f"train/{name}", losses[name])
        return losses

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss, in all and in four bins of time, with noise that is the same every time.

        Nothing of the texts is known to it, so that trainings can be compared; ``val/infill_loss``
        is that of texts of which parts are.
        """
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(batch_idx)
            losses = self.loss(batch)
            decoder_loss = self.decoder_loss(losses["pred_latents"], batch)
            infill_loss = None
            if self.denoiser.config.infill_prob:
                infill_loss = self.loss_beside_known(batch, 1.0)["loss"]
        options = {"batch_size": len(losses["t"]), "sync_dist": True}
        self.log("val/loss", losses["loss"], prog_bar=True, **options)
        tokens = {"batch_size": int(batch["attention_mask"].sum()), "sync_dist": True}
        self.log("val/decoder_loss", decoder_loss, prog_bar=True, **tokens)
        if infill_loss is not None:
            self.log("val/infill_loss", infill_loss, **options)
        self.validation_errors.add(losses["t"], losses["row_error"])

    def on_validation_epoch_end(self) -> None:
        """Log the loss in bins of time."""
        for name, mean in self.validation_errors.take_means(self).items():
            self.log(f"val/loss_t_{name}", mean, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer and its schedule."""
        optimizer = self.optimizer(self.denoiser.parameters())
        return with_schedule(self, optimizer, self.lr_schedule, self.warmup_steps)
