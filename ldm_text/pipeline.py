"""The pipeline: prompts to latents of their text, noise to latents, latents to text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from autoencoder.model import TextAutoencoder
from denoiser.guiders import weak_denoiser_of
from denoiser.infilling import KnownLatents
from denoiser.latent_classifier import LatentClassifier
from denoiser.model import LatentDenoiser
from denoiser.sampling import EditStart, check_scheduler, denoise
from denoiser.schedulers import with_noise_shift
from ldm_text.attributes import Attributes, attribute_targets, classifier_folder, load_classifiers
from ldm_text.checkpoint import check_latent_pipeline_folder, load_quietly
from ldm_text.compilation import Compilable
from ldm_text.components import check_components, check_guider, check_lengths
from ldm_text.generation import GenerationOutput, Generators
from ldm_text.known_tokens import KnownTokens
from ldm_text.labels import labelled_prompts, labels_of
from ldm_text.prompts import check_prompts
from ldm_text.sampler_options import check_number
from ldm_text.source_fields import SourceFields
from ldm_text.stopping import token_patience
from ldm_text.text_latents import TextLatents
from ldm_text.token_control import TokenControl


class LatentTextPipeline(TextLatents, Compilable, DiffusionPipeline):
    """Generate text by diffusion in the latent space of a text autoencoder.

    ```python
    pipeline = LatentTextPipeline.from_pretrained("checkpoints/e2e")
    output = pipeline("name[The Vaults], food[French]", num_inference_steps=16)
    output.texts
    ```

    Attributes:
        classifiers: Classifiers of its noisy latents by their attributes, for guidance; they lie in
            the folder ``classifiers`` of the pipeline's.
    """

    model_cpu_offload_seq = "autoencoder->denoiser"
    sampler_options = (
        "clamp_start",
        "self_correction",
        "stop_patience",
        "stop_confidence",
        "attributes",
        "noise_shift",
    )
    known_token_support = "any"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        autoencoder: TextAutoencoder,
        denoiser: LatentDenoiser,
        scheduler: SchedulerMixin,
        guider: BaseGuidance,
        max_length_tokens: int = 64,
        max_source_length_tokens: int = 64,
        clamp_start: float = 1.0,
        num_inference_steps: int = 16,
        labels: dict[str, Any] | None = None,
        source_separator: str | None = None,
    ) -> None:
        super().__init__()
        check_components(tokenizer, autoencoder, denoiser)
        check_lengths(autoencoder, max_length_tokens, max_source_length_tokens)
        SourceFields(source_separator)  # checks it
        self.register_modules(
            tokenizer=tokenizer,
            autoencoder=autoencoder,
            denoiser=denoiser,
            scheduler=scheduler,
            guider=guider,
        )
        self.register_to_config(
            max_length_tokens=max_length_tokens,
            max_source_length_tokens=max_source_length_tokens,
            clamp_start=clamp_start,
            num_inference_steps=num_inference_steps,
            labels=labels,
            source_separator=source_separator,
        )
        labels_of(self.config)
        self.classifiers: dict[str, LatentClassifier] = {}

    @property
    def default_num_inference_steps(self) -> int:
        """Steps of the sampler where none are given: a student of few steps says its own."""
        return self.config.num_inference_steps

    @property
    def network(self) -> nn.Module:
        """The network that runs once a step."""
        return self.denoiser

    @property
    def default_guidance_scale(self) -> float | None:
        """Guidance scale of the guider, if it has one."""
        return self.guider.config.get("guidance_scale")

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> "LatentTextPipeline":
        """Load a folder written by ``save_pretrained``; safetensors only.

        Raises:
            FileNotFoundError: If the folder or one of its parts is missing.
            ValueError: If a part does not fit the others.
        """
        check_latent_pipeline_folder(Path(path))
        pipeline = load_quietly(super().from_pretrained, path, options)
        pipeline.classifiers = load_classifiers(Path(path), pipeline.autoencoder)
        return pipeline

    def save_pretrained(self, path: str | Path, **options: Any) -> None:
        """Write a folder, its classifiers included."""
        super().save_pretrained(path, **options)
        for name, classifier in self.classifiers.items():
            classifier.save_pretrained(classifier_folder(Path(path), name))

    def check_inputs(  # noqa: PLR0913 (every option of a call)
        self,
        prompt: str | list[str | None] | None,
        num_samples: int,
        num_inference_steps: int | None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        output_type: str = "text",
        clamp_start: float | None = None,
        known_tokens: KnownTokens | None = None,
        self_correction: float | None = None,
        stop_patience: int | None = None,
        stop_confidence: float | None = None,
        attributes: Attributes | None = None,
        noise_shift: float | None = None,
    ) -> list[str | None]:
        """Check the arguments of a call and return its prompts as a list.

        Raises:
            ValueError: If an argument is out of range or of a wrong kind.
        """
        if num_inference_steps not in range(1, 1001):
            raise ValueError(
                f"`num_inference_steps` must be between 1 and 1000, got {num_inference_steps}."
            )
        if output_type not in ("text", "seq", "latent"):
            raise ValueError(f"`output_type` must be text, seq or latent, got '{output_type}'.")
        if clamp_start is not None:
            check_number("clamp_start", clamp_start)
        if self_correction is not None:
            check_number("self_correction", self_correction)
        if noise_shift is not None:
            check_number("noise_shift", noise_shift)
        token_patience(stop_patience, stop_confidence)
        attribute_targets(self.classifiers, attributes)
        check_scheduler(self.scheduler)
        check_guider(self.guider, guidance_scale)
        weak_denoiser_of(self.guider)
        prompts = prompt if isinstance(prompt, list) else [prompt]
        check_prompts(prompts, num_samples, generator)
        if known_tokens is not None:
            config = self.autoencoder.config
            sizes = (len(prompts), self.config.max_length_tokens, config.vocab_size)
            known_tokens.check(*sizes, config.pad_token_id)
        return prompts

    def prepare_latents(self, num_rows: int, generator: Generators) -> Tensor:
        """Draw the noise ``(B, L, D)``, float32; a list of generators has one for each row."""
        config = self.autoencoder.config
        shape = (num_rows, self.config.max_length_tokens // config.tokens_per_latent)
        return randn_tensor((*shape, config.latent_dim), generator=generator, device=self.device)

    def clean_latents(self, known_tokens: KnownTokens | None) -> KnownLatents | None:
        """Encode what a denoiser with ``infill_prob`` is told of known tokens, if anything.

        A latent is known if all of its tokens are; one that is known in part is replaced after each
        step, as with every denoiser.
        """
        if known_tokens is None or not self.denoiser.config.infill_prob:
            return None
        return self.encode_known_tokens(known_tokens)

    @torch.no_grad()
    def __call__(  # noqa: PLR0913 (every option of a call)
        self,
        prompt: str | list[str | None] | None = None,
        num_samples: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        output_type: Literal["text", "seq", "latent"] = "text",
        truncate: bool = False,
        clamp_start: float | None = None,
        callback_on_step_end: Callable[["LatentTextPipeline", int, Tensor], None] | None = None,
        known_tokens: KnownTokens | None = None,
        self_correction: float | None = None,
        start: EditStart | None = None,
        stop_patience: int | None = None,
        stop_confidence: float | None = None,
        attributes: Attributes | None = None,
        noise_shift: float | None = None,
    ) -> GenerationOutput:
        """Generate texts, in one batch.

        Args:
            prompt: Source text or texts; ``None`` generates without a source.
            num_samples: Texts for each prompt; they stand side by side.
            num_inference_steps: Steps of the scheduler, between 1 and 1000; ``None`` takes the
                pipeline's own.
            guidance_scale: Weight of classifier-free guidance, 1 is off; ``None`` leaves the guider
                as it is.
            generator: One source of randomness, or one for each row. With one per row, a row's text
                is the same in any batch.
            output_type: Text, token ids, or latents.
            truncate: Cut prompts that are too long instead of refusing them.
            clamp_start: Share of the steps, in [0, 1], after which each prediction is decoded to a
                text and encoded again; 1 is never, ``None`` takes the pipeline's own.
            callback_on_step_end: Called with the pipeline, the step and the predicted clean latents
                ``(B, L, D)``, which ``decode_latents`` reads.
            known_tokens: Tokens that the text must hold, a row for each prompt; they come out
                exactly, except with the output type ``latent``.
            self_correction: Share of a text's latents, in [0, 1), that get new noise after each
                step, those with the least probable tokens; the output then tells which tokens have
                changed at which step. ``None`` and 0 are off.
            start: Latents to start from in the place of pure noise, a row for each text.
            stop_patience: A text is done when its decoded tokens have not changed for so many
                steps, at least 1; it leaves the batch, and ``num_inference_steps`` is a budget.
                ``None`` lets all texts take all steps.
            stop_confidence: Probability by the decoder, in [0, 1], that each of its tokens must
                have for it to be done; ``None`` asks for none.
            attributes: The label that the texts are to have of each attribute, ``{"toxicity":
                "low"}``, or label and weight, ``{"toxicity": ("low", 4.0)}``: guidance by the
                classifiers of the pipeline.
            noise_shift: Median noise-to-signal ratio of the scheduler's grid, above 0; ``None``
                leaves the scheduler as it is. Above that of the training more of the steps are
                spent in noise.

        Returns:
            Texts, token ids and latents, see ``GenerationOutput``.

        Raises:
            ValueError: If an argument is out of range, or a prompt is too long.
        """
        if num_inference_steps is None:
            num_inference_steps = self.default_num_inference_steps
        prompts = self.check_inputs(
            prompt,
            num_samples,
            num_inference_steps,
            guidance_scale,
            generator,
            output_type,
            clamp_start,
            known_tokens,
            self_correction,
            stop_patience,
            stop_confidence,
            attributes,
            noise_shift,
        )
        targets = attribute_targets(self.classifiers, attributes)
        for each in targets:
            each.classifier.to(self.device)
        known_latents, known_mask = (
            part.repeat_interleave(num_samples, dim=0)
            for part in self.encode_prompts(prompts, truncate)
        )
        guider = self.guider
        if guidance_scale is not None:
            guider = guider.new(guidance_scale=guidance_scale)
        scheduler = self.scheduler
        if noise_shift is not None:
            scheduler = with_noise_shift(scheduler, noise_shift)
        if known_tokens is not None:
            known_tokens = known_tokens.repeat(num_samples).to(self.device)
        control = TokenControl(
            self,
            self.config.clamp_start if clamp_start is None else clamp_start,
            known_tokens,
            self_correction or 0.0,
            generator,
            self.clean_latents(known_tokens),
            token_patience(stop_patience, stop_confidence),
            targets,
        )
        steps_done = []

        def on_step_end(step: int, noisy_latents: Tensor, pred_latents: Tensor) -> None:
            steps_done.append(step)
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, pred_latents)

        latents = denoise(
            self.denoiser,
            scheduler,
            guider,
            self.prepare_latents(len(known_mask), generator),
            known_latents,
            known_mask,
            num_inference_steps,
            generator,
            on_step_end,
            control,
            start,
            self.shapes,
        )
        num_calls, changes = len(steps_done), control.changes or None
        row_calls = None
        if stop_patience is not None:
            row_calls = [control.num_calls.get(row, num_calls) for row in range(len(latents))]
        if output_type == "latent":
            return GenerationOutput([], None, num_calls, latents, changes, row_calls)
        sequences = self.decode_latents(latents, known_tokens)
        texts = self.texts_of(sequences) if output_type == "text" else []
        return GenerationOutput(texts, sequences, num_calls, latents, changes, row_calls)

    def generate(  # noqa: PLR0913 (every option of a call)
        self,
        prompts: list[str | None],
        num_samples: int = 1,
        generator: Generators = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        truncate: bool = False,
        known_tokens: KnownTokens | None = None,
        clamp_start: float | None = None,
        self_correction: float | None = None,
        stop_patience: int | None = None,
        stop_confidence: float | None = None,
        attributes: Attributes | None = None,
        noise_shift: float | None = None,
        label: str | list[str | None] | None = None,
    ) -> GenerationOutput:
        """Generate texts as every ``TextGenerator`` does; see there and ``__call__``."""
        return self(
            labelled_prompts(labels_of(self.config), prompts, label),
            num_samples,
            num_inference_steps,
            guidance_scale,
            generator,
            truncate=truncate,
            clamp_start=clamp_start,
            known_tokens=known_tokens,
            self_correction=self_correction,
            stop_patience=stop_patience,
            stop_confidence=stop_confidence,
            attributes=attributes,
            noise_shift=noise_shift,
        )
