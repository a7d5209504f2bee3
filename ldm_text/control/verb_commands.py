"""``ldm-text variations``, ``interpolate`` and ``refine``: texts near texts, and better ones."""

import sys
from pathlib import Path

from denoiser.schedulers import SchedulerName
from ldm_text.batch.job import run_job
from ldm_text.batch.line_inputs import PromptsFormat, prompt_field
from ldm_text.batch.options import JobOptions, OnError
from ldm_text.batch.texts import TextWorkOptions
from ldm_text.batch.work import Record
from ldm_text.control.commands import check_one_of, check_source, show
from ldm_text.control.verb_work import VerbWorkOptions
from ldm_text.control.verbs import Interpolation, Refinement, Variations
from ldm_text.generate import check_numbers, finish
from ldm_text.generated_rows import Sampling, TextSettings
from ldm_text.precision import Precision


def variations(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    distance: float,
    n: int = 5,
    text: str | None = None,
    prompts: Path | None = None,
    output: Path | None = None,
    source: str | None = None,
    text_field: str = "text",
    source_field: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    scheduler: SchedulerName | None = None,
    sampling: Sampling | None = None,
    precision: Precision = "auto",
    prompts_format: PromptsFormat | None = None,
    columns: tuple[str, ...] = (),
    on_error: OnError = "stop",
    shard: str | None = None,
    start_over: bool = False,
) -> int:
    """Write texts near a text; each tells how far from it it is.

    Args:
        pipeline: Folder of a latent pipeline.
        distance: Wanted edit distance in tokens, as a share of the longer text, in (0, 1].
        n: Number of texts for each text.
        text: One text.
        prompts: File of texts in place of one, as for ``generate``.
        output: File to write; without it, texts are printed.
        source: Condition under which the variations of ``text`` are written.
        text_field: Field of the text in JSON Lines and tables.
        source_field: Field of the condition, if rows have one.
        num_inference_steps: Steps of the sampler for the whole way.
        guidance_scale: Weight of classifier-free guidance, 1 is off.
        seed: Seed of the noise.
        batch_size: Texts that are taken together.
        scheduler: Scheduler in place of the pipeline's own.
        sampling: Further options of the pipeline's sampler.
        precision: Type the networks compute in.
        prompts_format: JSON Lines or lines of text, where the name of the file does not say it.
        columns: Columns to carry through.
        on_error: Whether a row that cannot be used ends the job, or goes to OUTPUT.rejects.jsonl.
        shard: ``i/n`` does the i-th of n parts.
        start_over: Forget what an earlier run with the same output has done.

    Returns:
        The exit code: 0, or 3 if rows were rejected.
    """
    verb = Variations(n, distance)
    check_numbers(seed)
    verb.check()
    check_one_of("text", text, prompts)
    check_source("text", text, source)
    job = JobOptions(
        prompts, output, prompts_format, columns, on_error, shard, start_over, batch_size
    )
    job.check()
    settings = TextSettings(num_inference_steps, guidance_scale, seed, False, sampling, precision)
    work = TextWorkOptions(pipeline, settings, n, source_field, scheduler)
    field = prompt_field(prompts, prompts_format, text_field)
    options = VerbWorkOptions(work, verb, None if text is None else (text,), (field,), source)
    report = run_job(options.load(), job, lambda records: show_near(records, "original"))
    return finish(report, output)


def interpolate(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    n: int = 5,
    first: str | None = None,
    last: str | None = None,
    prompts: Path | None = None,
    output: Path | None = None,
    strength: float = 0.3,
    source: str | None = None,
    first_field: str = "first",
    last_field: str = "last",
    source_field: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    scheduler: SchedulerName | None = None,
    sampling: Sampling | None = None,
    precision: Precision = "auto",
    prompts_format: PromptsFormat | None = None,
    columns: tuple[str, ...] = (),
    on_error: OnError = "stop",
    shard: str | None = None,
    start_over: bool = False,
) -> int:
    """Write texts on the way from one text to another.

    Args:
        pipeline: Folder of a latent pipeline.
        n: Number of texts, both ends included.
        first: Text at the begin.
        last: Text at the end.
        prompts: File of such pairs in place of one, JSON Lines, Parquet and the like.
        output: File to write; without it, texts are printed.
        strength: Share of the way back to noise from which the points between the texts are
            denoised, in [0, 1]; 0 decodes them as they are.
        source: Condition under which the texts between ``first`` and ``last`` are written.
        first_field: Field of the first text.
        last_field: Field of the last text.
        source_field: Field of the condition, if rows have one.
        num_inference_steps: Steps of the sampler for the whole way.
        guidance_scale: Weight of classifier-free guidance, 1 is off.
        seed: Seed of the noise.
        batch_size: Texts that are taken together.
        scheduler: Scheduler in place of the pipeline's own.
        sampling: Further options of the pipeline's sampler.
        precision: Type the networks compute in.
        prompts_format: JSON Lines or lines of text, where the name of the file does not say it.
        columns: Columns to carry through.
        on_error: Whether a row that cannot be used ends the job, or goes to OUTPUT.rejects.jsonl.
        shard: ``i/n`` does the i-th of n parts.
        start_over: Forget what an earlier run with the same output has done.

    Returns:
        The exit code: 0, or 3 if rows were rejected.
    """
    verb = Interpolation(n, strength)
    check_numbers(seed)
    verb.check()
    check_one_of("first", first, prompts)
    check_one_of("last", last, prompts)
    check_source("first", first, source)
    job = JobOptions(
        prompts, output, prompts_format, columns, on_error, shard, start_over, batch_size
    )
    job.check()
    settings = TextSettings(num_inference_steps, guidance_scale, seed, False, sampling, precision)
    work = TextWorkOptions(pipeline, settings, n, source_field, scheduler)
    ends = None if first is None or last is None else (first, last)
    options = VerbWorkOptions(work, verb, ends, (first_field, last_field), source)
    report = run_job(options.load(), job, lambda records: show_near(records, "first"))
    return finish(report, output)


def refine(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    text: str | None = None,
    prompts: Path | None = None,
    output: Path | None = None,
    num_rounds: int = 3,
    share: float = 0.25,
    strength: float = 0.6,
    source: str | None = None,
    text_field: str = "text",
    source_field: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    scheduler: SchedulerName | None = None,
    sampling: Sampling | None = None,
    precision: Precision = "auto",
    prompts_format: PromptsFormat | None = None,
    columns: tuple[str, ...] = (),
    on_error: OnError = "stop",
    shard: str | None = None,
    start_over: bool = False,
) -> int:
    """Write the weak places of texts again; a text never becomes less probable to the model.

    Args:
        pipeline: Folder of a latent pipeline.
        text: One text.
        prompts: File of texts in place of one, as for ``generate``.
        output: File to write; without it, texts are printed.
        num_rounds: How often the weakest places are looked for and written again.
        share: Share of the latents that is written again in a round, in (0, 1].
        strength: Share of the way back to noise, in (0, 1].
        source: Condition of ``text``.
        text_field: Field of the text in JSON Lines and tables.
        source_field: Field of the condition, if rows have one.
        num_inference_steps: Steps of the sampler for the whole way.
        guidance_scale: Weight of classifier-free guidance, 1 is off.
        seed: Seed of the noise.
        batch_size: Texts that are taken together.
        scheduler: Scheduler in place of the pipeline's own.
        sampling: Further options of the pipeline's sampler.
        precision: Type the networks compute in.
        prompts_format: JSON Lines or lines of text, where the name of the file does not say it.
        columns: Columns to carry through.
        on_error: Whether a row that cannot be used ends the job, or goes to OUTPUT.rejects.jsonl.
        shard: ``i/n`` does the i-th of n parts.
        start_over: Forget what an earlier run with the same output has done.

    Returns:
        The exit code: 0, or 3 if rows were rejected.
    """
    verb = Refinement(num_rounds, share, strength)
    check_numbers(seed)
    verb.check()
    check_one_of("text", text, prompts)
    check_source("text", text, source)
    job = JobOptions(
        prompts, output, prompts_format, columns, on_error, shard, start_over, batch_size
    )
    job.check()
    settings = TextSettings(num_inference_steps, guidance_scale, seed, False, sampling, precision)
    work = TextWorkOptions(pipeline, settings, 1, source_field, scheduler)
    field = prompt_field(prompts, prompts_format, text_field)
    options = VerbWorkOptions(work, verb, None if text is None else (text,), (field,), source)
    report = run_job(options.load(), job, lambda records: show(records, "original"))
    return finish(report, output)


def show_near(records: list[Record], before: str) -> None:
    """Print a text, and below it those made from it with their distances to it."""
    for record in records:
        if record["sample"] == 0:
            sys.stdout.write(f"{record[before]}\n")
        sys.stdout.write(f"  {record['changed']:.2f}  {record['text']}\n")
    sys.stdout.flush()
