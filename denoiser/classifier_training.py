"""Train a classifier of noisy latents with Lightning, on the latents of a frozen autoencoder."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from autoencoder.latent_space import latent_space_id
from autoencoder.loading import PretrainedAutoencoder
from autoencoder.model import TextAutoencoder
from autoencoder.ranges import check_positive
from autoencoder.schedule import ScheduleName, with_schedule
from autoencoder.seeded_steps import SeededSteps
from denoiser.latent_classifier import LatentClassifier
from denoiser.noise import add_noise, sample_time
from denoiser.time_bins import MeansByTime


class LitLatentClassifier(SeededSteps):
    """Tell the label of a text from its noisy latents, by cross-entropy.

    Args:
        classifier: The network as a ``class_path``; channels, labels and the name of the latents
            come from autoencoder and data.
        autoencoder: A trained autoencoder; it stays frozen.
        optimizer: Optimizer as a ``class_path``.
        attribute: What the labels are of; the command line links it to the data.
        label_names: Names of the labels by number; linked to the data too.
        noise_shift: Median noise-to-signal ratio of the training noise; that of a denoiser is too
            much, as no label can be told under most of it.
        warmup_steps: Steps of linear warm-up of the learning rate.
        lr_schedule: Course of the learning rate after the warm-up, until ``trainer.max_steps``.
        compile_network: Compile the networks with ``torch.compile``.

    Raises:
        ValueError: If the data has no labels, or ``noise_shift`` is not positive.
    """

    def __init__(
        self,
        classifier: Callable[[int, str, list[str], str], LatentClassifier],
        autoencoder: PretrainedAutoencoder | TextAutoencoder,
        optimizer: OptimizerCallable,
        attribute: str | None = None,
        label_names: list[str] | None = None,
        noise_shift: float = 1.0,
        warmup_steps: int = 100,
        lr_schedule: ScheduleName = "cosine",
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        check_positive(noise_shift=noise_shift)
        if attribute is None or label_names is None:
            raise ValueError("A classifier needs data with labels: give the corpus its `labels`.")
        self.save_hyperparameters()
        if isinstance(autoencoder, PretrainedAutoencoder):
            autoencoder = autoencoder.autoencoder
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.classifier = classifier(
            autoencoder.config.latent_dim, attribute, label_names, latent_space_id(autoencoder)
        )
        self.optimizer = optimizer
        self.noise_shift = noise_shift
        self.warmup_steps = warmup_steps
        self.lr_schedule = lr_schedule
        self.compile_network = compile_network
        self.validation_accuracies = MeansByTime()

    def train(self, mode: bool = True) -> "LitLatentClassifier":
        """Switch the classifier's mode; the autoencoder always stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def on_fit_start(self) -> None:
        """Compile in place, so that the names in the checkpoint stay the same."""
        if self.compile_network:
            self.classifier.compile()
            self.autoencoder.encoder.compile()

    def score(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Noise the latents of a batch and classify them.

        Returns:
            ``loss``, the cross-entropy in nats, a scalar; ``t`` and ``is_right``, both ``(B,)``.
        """
        with torch.no_grad():
            latents = self.autoencoder.encode(batch["input_ids"], batch["attention_mask"])
            latents = self.autoencoder.statistics.standardize(latents)
        t = sample_time(len(latents), self.noise_shift, latents.device)
        logits = self.classifier(add_noise(latents, torch.randn_like(latents), t), t)
        is_right = (logits.argmax(dim=-1) == batch["label"]).float()
        return {"loss": F.cross_entropy(logits, batch["label"]), "t": t, "is_right": is_right}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute and log the loss."""
        scored = self.score(batch)
        self.log("train/loss", scored["loss"], prog_bar=True)
        self.log("train/accuracy", scored["is_right"].mean())
        return scored["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy, this in four bins of time too, with the same noise every time."""
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(batch_idx)
            scored = self.score(batch)
        options = {"batch_size": len(scored["t"]), "sync_dist": True}
        self.log("val/loss", scored["loss"], prog_bar=True, **options)
        self.log("val/accuracy", scored["is_right"].mean(), prog_bar=True, **options)
        self.validation_accuracies.add(scored["t"], scored["is_right"])

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy in bins of time."""
        for name, mean in self.validation_accuracies.take_means(self).items():
            self.log(f"val/accuracy_t_{name}", mean, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer and its schedule."""
        optimizer = self.optimizer(self.classifier.parameters())
        return with_schedule(self, optimizer, self.lr_schedule, self.warmup_steps)
