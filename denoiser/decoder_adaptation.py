"""Adapt the decoder of an autoencoder to what the denoiser predicts, with Lightning."""

import copy
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers.guiders import ClassifierFreeGuidance
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from autoencoder.ranges import check_shares
from autoencoder.schedule import ScheduleName, with_schedule
from autoencoder.training import reconstruction_loss
from denoiser.loading import PretrainedDenoiser
from denoiser.model import LatentDenoiser
from denoiser.noise import add_noise, sample_time
from denoiser.sampling import denoise, guided_prediction
from denoiser.schedulers import SamplingDefaults, make_scheduler
from denoiser.shares import draw_numbers
from denoiser.training import LitDenoiser


def token_losses(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Average the cross-entropy, in nats, over the real tokens of each row: ``(B,)``."""
    mask = batch["attention_mask"]
    labels = batch["input_ids"].masked_fill(~mask, -100)
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
    return losses.sum(dim=1) / mask.sum(dim=1)


def frozen(denoiser: LatentDenoiser, latent_dim: int) -> LatentDenoiser:
    """Return a denoiser without gradients; its latents have the width that it was trained for."""
    return denoiser.eval().requires_grad_(False)


class LitDecoderAdaptation(LitDenoiser):
    """Train the decoder to read texts from predicted latents; encoder and denoiser stay frozen.

    A decoder trained on clean and noisy latents meets something else when it is used: predictions,
    which are blurred where the text is not decided. Trained on them it decides by itself (the
    largest single gain of "Denoising Blocks, Not Tokens" 2026, table 4). A batch has three kinds of
    rows: clean latents, which keep reconstruction as it was; latents sampled from noise, where the
    text of the row is what its source determines; and latents predicted in one call from noised
    ones, at times drawn as in the training of the denoiser.

    The latents of all texts stay the same: the denoiser fits the adapted autoencoder as before.

    Args:
        pretrained: A trained denoiser with its autoencoder.
        optimizer: Optimizer as a ``class_path``; it gets the weights of the decoder alone.
        clean_share: Share of clean rows in a batch.
        sampled_share: Share of rows sampled from noise; only for data with one text a source, such
            as that of sequence-level distillation, for the text of the row must be the one to say.
        num_inference_steps: Steps of these samples.
        guidance_scale: Guidance of predictions and samples, best that of the pipeline.
        max_accuracy_loss: How much of the token accuracy on clean latents may be lost, in [0, 1]; a
            validation that finds more ends the training, in its second half: at first, while the
            learning rate is high, more is lost than at the end.
        self_condition_prob: Share of the predicted rows that see an earlier prediction.
        warmup_steps: Steps of linear warm-up of the learning rate.
        lr_schedule: Course of the learning rate after the warm-up, until ``trainer.max_steps``.
        compile_network: Compile the networks with ``torch.compile``.
        cache_latents: As in ``LitDenoiser``.
    """

    can_be_sharded: ClassVar[bool] = False

    def __init__(
        self,
        pretrained: PretrainedDenoiser,
        optimizer: OptimizerCallable,
        clean_share: float = 0.5,
        sampled_share: float = 0.0,
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        max_accuracy_loss: float = 0.005,
        self_condition_prob: float = 0.5,
        warmup_steps: int = 50,
        lr_schedule: ScheduleName = "linear",
        compile_network: bool = False,
        cache_latents: bool = False,
    ) -> None:
        if min(clean_share, sampled_share) < 0 or clean_share + sampled_share > 1:
            raise ValueError(
                "`clean_share` and `sampled_share` must not be negative, nor more than 1 together, "
                f"got {clean_share} and {sampled_share}."
            )
        check_shares(max_accuracy_loss=max_accuracy_loss)
        super().__init__(
            denoiser=partial(frozen, pretrained.denoiser),
            autoencoder=pretrained.autoencoder,
            optimizer=optimizer,
            noise_shift=pretrained.noise_shift,
            self_condition_prob=self_condition_prob,
            warmup_steps=warmup_steps,
            lr_schedule=lr_schedule,
            compile_network=compile_network,
            cache_latents=cache_latents,
        )
        self.original_decoder = copy.deepcopy(self.autoencoder.decoder)
        self.autoencoder.decoder.requires_grad_(True)
        self.clean_share, self.sampled_share = clean_share, sampled_share
        self.num_inference_steps = num_inference_steps
        self.guider = ClassifierFreeGuidance(guidance_scale=guidance_scale)
        self.max_accuracy_loss = max_accuracy_loss
        self.counts = torch.zeros(3)  # right tokens of both decoders on clean latents, all tokens

    @property
    def sampling(self) -> SamplingDefaults:
        """The guidance is that of the training."""
        return SamplingDefaults(guidance_scale=self.guider.config["guidance_scale"])

    def train(self, mode: bool = True) -> "LitDecoderAdaptation":
        """Switch the decoder's mode; all else always stays in evaluation mode."""
        super().train(mode)
        self.denoiser.eval()
        self.original_decoder.eval()
        self.autoencoder.decoder.train(mode)
        return self

    @torch.no_grad()
    def predict(self, latents: Tensor, known: tuple[Tensor, Tensor]) -> Tensor:
        """Noise latents and predict them, ``(B, L, D)``.

        Args:
            latents: Clean standardized latents ``(B, L, D)``.
            known: Latents of the sources and where they hold text.
        """
        t = sample_time(len(latents), self.noise_shift, latents.device)
        noisy_latents = add_noise(latents, torch.randn_like(latents), t)
        self_condition = torch.zeros_like(latents)
        [num_conditioned] = draw_numbers(len(latents), self.self_condition_prob)
        if num_conditioned:
            rows = slice(num_conditioned)
            self_condition[rows] = guided_prediction(
                self.denoiser,
                self.guider,
                noisy_latents[rows],
                t[rows],
                known[0][rows],
                known[1][rows],
                None,
            )
        return guided_prediction(
            self.denoiser, self.guider, noisy_latents, t, *known, self_condition
        )

    def sample(self, noise: Tensor, known: tuple[Tensor, Tensor]) -> Tensor:
        """Sample latents ``(B, L, D)`` from noise for each source."""
        scheduler = make_scheduler("euler", self.noise_shift)
        steps = self.num_inference_steps
        return denoise(self.denoiser, scheduler, self.guider, noise, *known, steps)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode standardized latents ``(B, L, D)`` to logits ``(B, S, V)``."""
        return self.autoencoder.decode(self.autoencoder.statistics.unstandardize(latents))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the cross-entropy over rows of all three kinds.

        Returns:
            ``loss``, a mean over the rows; and ``row_loss`` ``(B,)``, in nats a token, of the clean
            rows first, then the sampled ones, then the predicted ones.
        """
        latents = self.latents(batch, "input")
        known = self.known_latents(batch, latents)
        num_rows = len(latents)
        num_clean, num_sampled = draw_numbers(num_rows, self.clean_share, self.sampled_share)
        parts = [latents[:num_clean]]
        if num_sampled:
            rows = slice(num_clean, num_clean + num_sampled)
            noise = torch.randn_like(latents[rows])
            parts.append(self.sample(noise, (known[0][rows], known[1][rows])))
        if num_clean + num_sampled < num_rows:
            rows = slice(num_clean + num_sampled, None)
            parts.append(self.predict(latents[rows], (known[0][rows], known[1][rows])))
        row_loss = token_losses(self.decode(torch.cat(parts)), batch)
        return {"loss": row_loss.mean(), "row_loss": row_loss.detach()}

    # The last batch is smaller: compiled networks would be compiled once more for it.
    @torch.compiler.set_stance("force_eager")
    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the cross-entropy on predicted latents, and what became of clean ones."""
        latents, mask = self.latents(batch, "input"), batch["attention_mask"]
        clean_logits = self.decode(latents)
        original = self.original_decoder(self.autoencoder.statistics.unstandardize(latents), None)
        original_logits = F.linear(original, self.autoencoder.embedding.weight)
        right = [
            (logits.argmax(dim=-1) == batch["input_ids"])[mask].sum()
            for logits in (original_logits, clean_logits)
        ]
        self.counts = self.counts.to(mask.device) + torch.stack([*right, mask.sum()])
        with torch.random.fork_rng():
            torch.manual_seed(batch_idx)
            predicted = self.predict(latents, self.known_latents(batch, latents))
            decoder_loss = reconstruction_loss(self.decode(predicted), batch)
        options = {"batch_size": int(mask.sum()), "sync_dist": True}
        self.log("val/decoder_loss", decoder_loss, prog_bar=True, **options)
        self.log("val/reconstruction", reconstruction_loss(clean_logits, batch), **options)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy on clean latents and how much of it is lost.

        Raises:
            ValueError: If it is more than the bound, in the second half of a training.
        """
        if self.trainer.world_size > 1:
            self.counts = torch.as_tensor(self.all_gather(self.counts)).sum(dim=0)
        before, after, total = self.counts.tolist()
        self.counts = torch.zeros(3)
        lost = (before - after) / total
        self.log("val/token_accuracy", after / total, prog_bar=True)
        self.log("val/token_accuracy_lost", lost)
        if lost > self.max_accuracy_loss and self.is_in_second_half():
            raise ValueError(
                f"The adapted decoder reads {lost:.2%} fewer tokens right from clean latents, more "
                f"than `max_accuracy_loss` {self.max_accuracy_loss:.2%}: raise `clean_share`, or "
                "lower the learning rate."
            )

    def is_in_second_half(self) -> bool:
        """Tell whether a training is at or beyond the middle of its steps."""
        is_training = self.trainer.state.fn == TrainerFn.FITTING
        return is_training and 2 * self.global_step >= self.trainer.estimated_stepping_batches

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Set up the optimizer of the decoder and its schedule."""
        optimizer = self.optimizer(self.autoencoder.decoder.parameters())
        return with_schedule(self, optimizer, self.lr_schedule, self.warmup_steps)
