"""What is measured on the predictions and samples of a pipeline, beside its autoencoder."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autoencoder.diagnostics import score_own_texts
from denoiser.diagnostics import PredictionNorms, error_by_time, predict_once
from denoiser.schedulers import noise_shift_of
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.autoencoder_diagnosis import TIMES, AutoencoderDiagnosis
from ldm_text.generated_rows import row_generator
from ldm_text.pipeline import LatentTextPipeline


class Diagnosis(AutoencoderDiagnosis):
    """Texts and latents of a pipeline, and what is measured on them.

    Args:
        pipeline: A latent pipeline.
        records: Texts, with their sources if there are any; longer ones than the pipeline's longest
            are left out.
        seed: Seed of all noise.
        batch_size: Rows that go through the networks together.

    Raises:
        ValueError: If fewer than four texts are left.
    """

    def __init__(
        self,
        pipeline: LatentTextPipeline,
        records: Sequence[TextRecord],
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        limit = pipeline.config.max_length_tokens
        super().__init__(pipeline.autoencoder, pipeline.tokenizer, limit, records, seed, batch_size)
        self.pipeline = pipeline

    @cached_property
    def denoiser_inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Standardized latents, those of the sources, and where these hold text."""
        with torch.no_grad():
            known_latents, known_mask = self.pipeline.encode_prompts(self.sources, truncate=True)
        return self.statistics.standardize(self.latents), known_latents, known_mask

    def predicted(self) -> list[dict[str, Any]]:
        """Measure the decoder on single predictions of the denoiser, at ``TIMES``."""
        curve = []
        for t in TIMES:
            times = torch.full((len(self.texts),), t, device=self.pipeline.device)
            predicted = predict_once(
                self.pipeline.denoiser,
                *self.denoiser_inputs,
                times,
                self.generator,
                self.batch_size,
            )
            score = self.score(self.statistics.unstandardize(predicted))
            curve.append({"t": t, "noise_ratio": t / (1 - t) if t < 1 else None} | score)
        return curve

    def sample(
        self, num_inference_steps: int, guidance_scale: float | None
    ) -> tuple[Tensor, list[float]]:
        """Sample latents for each source, without clamping: clamped ones are those of a text.

        Returns:
            Standardized latents ``(N, L, D)``, and the root mean square of the prediction at each
            step.
        """
        norms, sampled = PredictionNorms(), []
        for start in range(0, len(self.texts), self.batch_size):
            sources = self.sources[start : start + self.batch_size]
            generators = [
                row_generator(self.seed, start + row, 0, self.pipeline.device)
                for row in range(len(sources))
            ]
            output = self.pipeline(
                sources,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=generators,
                output_type="latent",
                truncate=True,
                clamp_start=1.0,
                callback_on_step_end=lambda _, step, latents: norms.add(step, latents),
            )
            sampled.append(output.latents)
        return torch.cat(sampled), norms.values()

    def decoder_and_norms(
        self, num_inference_steps: int, guidance_scale: float | None
    ) -> dict[str, Any]:
        """Measure the decoder on latents of each origin, and how predictions grow in sampling."""
        sampled, norms = self.sample(num_inference_steps, guidance_scale)
        own = score_own_texts(
            self.autoencoder, self.statistics.unstandardize(sampled), self.batch_size
        )
        real = self.denoiser_inputs[0].square().mean().sqrt()
        return {
            "decoder": self.decoder() | {"predicted": self.predicted(), "sampled": own},
            "prediction_norm": {"steps": norms, "real_latents": float(real)},
        }

    def denoiser_error(self) -> list[dict[str, Any]]:
        """Measure the denoiser's error by time, see ``error_by_time``."""
        return error_by_time(
            self.pipeline.denoiser,
            *self.denoiser_inputs,
            noise_shift_of(self.pipeline.scheduler),
            self.generator,
            batch_size=self.batch_size,
        )
