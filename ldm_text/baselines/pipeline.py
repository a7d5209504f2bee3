"""The pipeline of a baseline: prompts to token ids to texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import PreTrainedTokenizerFast

from ldm_text.baselines.diffusion import check_num_inference_steps
from ldm_text.baselines.known_token_checks import check_known_tokens
from ldm_text.baselines.sequences import prompt_batch
from ldm_text.baselines.token_model import KnownTokenSupport, TokenModel
from ldm_text.checkpoint import check_token_pipeline_folder, load_quietly
from ldm_text.component_files import read_options
from ldm_text.components import check_special_tokens
from ldm_text.generation import GenerationOutput, Generators
from ldm_text.known_tokens import KnownTokens
from ldm_text.labels import check_labels, labelled_prompts, labels_of
from ldm_text.prompts import check_prompts, tokenize_prompts
from ldm_text.sampler_options import NUMBERS, check_choice, check_number, check_switch
from ldm_text.tokenizer import load_tokenizer


class TokenPipeline(DiffusionPipeline):
    """Generate text with a baseline."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        token_model: TokenModel,
        max_length_tokens: int = 64,
        max_source_length_tokens: int = 64,
        labels: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_special_tokens(tokenizer, token_model.config, "token model")
        self.register_modules(tokenizer=tokenizer, token_model=token_model)
        self.register_to_config(
            max_length_tokens=max_length_tokens,
            max_source_length_tokens=max_source_length_tokens,
            labels=labels,
        )
        labels_of(self.config)

    @property
    def network(self) -> nn.Module:
        """The network that runs once a step."""
        return self.token_model.network

    @property
    def sampler_options(self) -> tuple[str, ...]:
        """Names of the options of ``generate`` that the model takes."""
        return self.token_model.sampler_options

    @property
    def known_token_support(self) -> KnownTokenSupport:
        """Which known tokens the model can keep."""
        return self.token_model.known_token_support

    @property
    def default_num_inference_steps(self) -> int | None:
        """Number of steps: one for each token, or none where that goes without saying."""
        takes_steps = self.token_model.takes_num_inference_steps
        return self.config.max_length_tokens if takes_steps else None

    @property
    def default_guidance_scale(self) -> float | None:
        """Guidance is off by default."""
        return 1.0 if "guidance_scale" in self.sampler_options else None

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "TokenPipeline":
        """Load a folder written by ``save_pretrained``; safetensors only.

        Raises:
            FileNotFoundError: If the folder or one of its parts is missing.
            ValueError: If a part does not fit the others.
        """
        folder = Path(path)
        # The stock loader wants the base class of each part in the module of its class.
        model_class = check_token_pipeline_folder(folder)
        index = read_options(folder / "model_index.json")
        pipeline = cls(
            load_tokenizer(folder / "tokenizer"),
            load_quietly(model_class.from_pretrained, folder / "token_model", {}),
            index["max_length_tokens"],
            index["max_source_length_tokens"],
            index.get("labels"),
        )
        pipeline.register_to_config(_name_or_path=str(path))  # as the stock loader does
        return pipeline

    def compile(self, batch_sizes: Sequence[int] = (), **options: Any) -> None:
        """Refuse: caches grow with the text, and shapes are not fixed.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"`compile` is for latent pipelines: {type(self.token_model).__name__} generates "
            "uncompiled."
        )

    def tokenize_prompts(
        self, prompts: list[str | None], truncate: bool = False
    ) -> list[list[int]]:
        """Tokenize sources as ``ldm_text.prompts.tokenize_prompts`` does, with this model's limit.

        Raises:
            ValueError: If a prompt is too long, or has no label where all must have one.
        """
        check_labels(labels_of(self.config), prompts)
        limit = self.config.max_source_length_tokens
        return tokenize_prompts(self.tokenizer, prompts, limit, truncate)

    def check_inputs(
        self,
        prompts: list[str | None],
        num_samples: int = 1,
        generator: Generators = None,
        known_tokens: KnownTokens | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Check the arguments of ``generate`` and return the options that are set.

        Raises:
            ValueError: If an argument is out of range, or has no effect for this model, or the
                model cannot keep such tokens.
        """
        check_prompts(prompts, num_samples, generator)
        if known_tokens is not None:
            num_tokens = self.config.max_length_tokens
            check_known_tokens(known_tokens, self.token_model, len(prompts), num_tokens)
        options = {name: value for name, value in options.items() if value is not None}
        for name, value in options.items():
            self.check_option(name, value)
        self.token_model.check_sampling(self.config.max_length_tokens, **options)
        return options

    def check_option(self, name: str, value: Any) -> None:
        """Check one option of the sampler.

        Raises:
            ValueError: If it has no effect for this model, or is of a wrong kind or out of range.
        """
        steps = ("num_inference_steps",) if self.token_model.takes_num_inference_steps else ()
        known = (*steps, *self.sampler_options)
        if name not in known:
            raise ValueError(
                f"`{name}` has no effect: {type(self.token_model).__name__} takes "
                f"{', '.join(known)}. Leave it out, got {value}."
            )
        if name in NUMBERS:
            check_number(name, value)
        elif name == "num_inference_steps":
            check_num_inference_steps(value, default=value)
        elif name == "use_cache":
            check_switch(name, value)
        else:
            kind = get_type_hints(type(self.token_model).generate_ids)[name]
            check_choice(name, value, get_args(kind))

    @torch.no_grad()
    def generate(
        self,
        prompts: list[str | None],
        num_samples: int = 1,
        generator: Generators = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        truncate: bool = False,
        known_tokens: KnownTokens | None = None,
        label: str | list[str | None] | None = None,
        **options: Any,
    ) -> GenerationOutput:
        """Generate texts, in one batch; see ``TextGenerator.generate``.

        Args:
            prompts: One source a row; ``None`` for a row without.
            num_samples: Texts for each prompt; they stand side by side.
            generator: One source of randomness, or one for each row.
            num_inference_steps: Calls of the network after each other; ``None`` takes the model's
                own number.
            guidance_scale: Weight of classifier-free guidance.
            truncate: Cut prompts that are too long instead of refusing them.
            known_tokens: Tokens that the texts must hold, a row for each prompt; which ones can be
                kept tells the model's ``known_token_support``.
            label: Label of the texts, one for all prompts or one for each.
            options: What else the model's sampler takes, see its ``sampler_options``.

        Raises:
            ValueError: If an argument is out of range, or has no effect for this model, or the
                model cannot keep such tokens.
        """
        prompts = labelled_prompts(labels_of(self.config), prompts, label)
        options = self.check_inputs(
            prompts,
            num_samples,
            generator,
            known_tokens,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            **options,
        )
        rows = [ids for ids in self.tokenize_prompts(prompts, truncate) for _ in range(num_samples)]
        batch = prompt_batch(rows, self.tokenizer.eos_token_id, self.device)
        if known_tokens is not None and not known_tokens.is_empty:
            options["known_tokens"] = known_tokens.repeat(num_samples).to(self.device)
        ids, num_calls = self.token_model.generate_ids(
            batch, self.config.max_length_tokens, generator, **options
        )
        is_end = ids == self.tokenizer.eos_token_id
        if known := options.get("known_tokens"):
            is_end = is_end | (known.is_known & (known.ids == self.tokenizer.pad_token_id))
        ids = ids.masked_fill(is_end.cumsum(dim=1) > 0, self.tokenizer.pad_token_id)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return GenerationOutput(texts, ids, num_calls)
