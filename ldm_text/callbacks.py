"""Callbacks that show texts while a model trains."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from autoencoder.sharding import whole_networks
from autoencoder.training import LitAutoencoder
from denoiser.distillation_training import LitDistillation
from denoiser.guiders import make_guider
from denoiser.schedulers import SamplingDefaults, make_scheduler
from denoiser.training import LitDenoiser
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.training import LitTokenModel
from ldm_text.evaluation.metrics import corpus_bleu
from ldm_text.first_batch import KeepFirstBatch
from ldm_text.pipeline import LatentTextPipeline


def decode_rows(tokenizer: PreTrainedTokenizerFast, ids: Tensor, mask: Tensor) -> list[str]:
    """Write the real tokens of ``(B, S)`` ids as texts."""
    rows = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


def markdown_table(header: list[str], rows: Sequence[tuple[str, ...]]) -> str:
    """Write rows as a Markdown table, which TensorBoard shows."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[" ".join(cell.replace("|", "\\|").splitlines()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


class LogTexts(KeepFirstBatch):
    """Log decoded texts at each validation: reconstructions, or texts generated from noise.

    For an autoencoder, texts go through clean latents and through latents with as much noise as
    signal. For a denoiser or a baseline, one text is generated for each of the first validation
    rows; their BLEU against the one target of the row is logged as ``val/bleu``. A student of few
    steps is sampled as it is trained, without guidance.

    Args:
        num_rows: Rows that go into the figures.
        num_shown: Rows shown as text.
        num_inference_steps: Steps of the sampler, where it takes any.
        guidance_scale: Weight of a denoiser's guidance; ``None`` is that of an exported pipeline,
            which is 1 where guidance is folded in. Baselines are sampled without.
    """

    def __init__(
        self,
        num_rows: int = 64,
        num_shown: int = 12,
        num_inference_steps: int = 16,
        guidance_scale: float | None = None,
    ) -> None:
        super().__init__(num_rows)
        self.num_shown = num_shown
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write texts to the logger."""
        datamodule = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or datamodule is None:
            return
        with whole_networks(pl_module):
            if trainer.is_global_zero:
                self.write(trainer, pl_module, datamodule)

    @torch.compiler.set_stance("force_eager")
    def write(self, trainer: Trainer, pl_module: LightningModule, datamodule: Any) -> None:
        """Make a table of texts and give it to the logger."""
        if isinstance(pl_module, LitAutoencoder):
            table = self.reconstructions(pl_module, datamodule.tokenizer)
        elif isinstance(pl_module, LitDenoiser | LitTokenModel):
            table = self.generations(pl_module, datamodule)
        else:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("val/texts", table, trainer.global_step)

    def reconstructions(self, module: LitAutoencoder, tokenizer: PreTrainedTokenizerFast) -> str:
        """Decode clean and noisy latents of the kept rows."""
        ids, mask = self.batch["input_ids"], self.batch["attention_mask"]
        documents = self.batch["document_ids"]
        latents = module.autoencoder.encode(ids, mask, documents)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
        columns = [ids] + [
            module.autoencoder.decode(noisy, document_ids=documents).argmax(-1)
            for noisy in (latents, latents + noise)
        ]
        texts = [decode_rows(tokenizer, column, mask)[: self.num_shown] for column in columns]
        header = ["text", "reconstructed", "reconstructed at noise ratio 1"]
        return markdown_table(header, list(zip(*texts, strict=True)))

    def pipeline_of(
        self, module: LitDenoiser | LitTokenModel, datamodule: Any
    ) -> LatentTextPipeline | TokenPipeline:
        """Make a pipeline around the networks in training."""
        lengths = datamodule.max_length_tokens, datamodule.max_source_length_tokens
        if isinstance(module, LitTokenModel):
            return TokenPipeline(datamodule.tokenizer, module.token_model, *lengths)
        sampling = module.sampling
        if not isinstance(module, LitDistillation):
            scale = self.guidance_scale
            scale = sampling.guidance_scale if scale is None else scale
            sampling = SamplingDefaults("euler", self.num_inference_steps, scale)
        return LatentTextPipeline(
            datamodule.tokenizer,
            module.autoencoder,
            module.denoiser,
            make_scheduler(sampling.scheduler, module.noise_shift),
            make_guider("constant", sampling.guidance_scale),
            *lengths,
            clamp_start=sampling.clamp_start,
            num_inference_steps=sampling.num_inference_steps,
            source_separator=datamodule.corpus.source_separator,
        )

    def generations(self, module: LitDenoiser | LitTokenModel, datamodule: Any) -> str:
        """Generate texts for the kept rows, always from the same noise."""
        tokenizer, pipeline = datamodule.tokenizer, self.pipeline_of(module, datamodule)
        targets = decode_rows(tokenizer, self.batch["input_ids"], self.batch["attention_mask"])
        sources: list[str | None] = [None] * len(targets)
        if "source_ids" in self.batch:
            source_ids, source_mask = self.batch["source_ids"], self.batch["source_mask"]
            sources = list(decode_rows(tokenizer, source_ids, source_mask))
        is_latent = isinstance(pipeline, LatentTextPipeline)
        takes_own_steps = is_latent or pipeline.default_num_inference_steps is None
        texts = pipeline.generate(
            sources,
            generator=torch.Generator(module.device).manual_seed(0),
            num_inference_steps=None if takes_own_steps else self.num_inference_steps,
            truncate=True,  # the text of cut ids can have more ids than were cut
        ).texts
        if "source_ids" in self.batch:
            bleu = corpus_bleu(texts, [[target] for target in targets])
            module.log("val/bleu", bleu, prog_bar=True, rank_zero_only=True)
        rows = [(source or "", text) for source, text in zip(sources, texts, strict=True)]
        return markdown_table(["source", "generated"], rows[: self.num_shown])
