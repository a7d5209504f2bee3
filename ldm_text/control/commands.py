"""``ldm-text infill`` and ``ldm-text edit``: fill the gaps of texts, and change texts."""

import sys
from pathlib import Path

from denoiser.schedulers import SchedulerName
from ldm_text.batch.job import run_job
from ldm_text.batch.line_inputs import PromptsFormat, prompt_field
from ldm_text.batch.options import JobOptions, OnError
from ldm_text.batch.texts import TextWorkOptions
from ldm_text.batch.work import Record
from ldm_text.control.edit import check_strength
from ldm_text.control.edit_work import EditWorkOptions
from ldm_text.control.options import ControlOptions
from ldm_text.control.work import ControlledWorkOptions
from ldm_text.generate import check_numbers, finish
from ldm_text.generated_rows import Sampling, TextSettings
from ldm_text.precision import Precision


def infill(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    template: str | None = None,
    prompts: Path | None = None,
    output: Path | None = None,
    source: str | None = None,
    template_field: str = "template",
    source_field: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    num_samples: int = 1,
    scheduler: SchedulerName | None = None,
    sampling: Sampling | None = None,
    control: ControlOptions | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    prompts_format: PromptsFormat | None = None,
    columns: tuple[str, ...] = (),
    on_error: OnError = "stop",
    shard: str | None = None,
    start_over: bool = False,
) -> int:
    """Fill the gaps of texts; what stands around them is kept token for token.

    Args:
        pipeline: Folder of the pipeline.
        template: One text with gaps: [MASK:5] for 5 tokens, [MASK:3-8] for 3 to 8, [MASK] for any
            number. A backslash before a bracket makes it text.
        prompts: File of such texts in place of one: JSON Lines, lines of text, Parquet and what
            else ``generate`` reads.
        output: File to write; without it, texts are printed.
        source: What the text of ``template`` is conditioned on.
        template_field: Field of the template in JSON Lines and tables.
        source_field: Field of the source, if rows have one.
        num_inference_steps: Steps of the sampler.
        guidance_scale: Weight of classifier-free guidance, 1 is off.
        seed: Seed of the noise.
        batch_size: Rows that are filled together.
        num_samples: Texts for each row.
        scheduler: Scheduler in place of a latent pipeline's own.
        sampling: Further options of the pipeline's sampler.
        control: Lengths, constraints, candidates, guidance; as for ``generate``.
        precision: Type the networks compute in.
        compile: Compile the networks, see ``generate``.
        prompts_format: JSON Lines or lines of text, where the name of the file does not say it.
        columns: Columns to carry through.
        on_error: Whether a row that cannot be used ends the job, or goes to OUTPUT.rejects.jsonl.
        shard: ``i/n`` does the i-th of n parts.
        start_over: Forget what an earlier run with the same output has done.

    Returns:
        The exit code: 0, or 3 if rows were rejected.
    """
    check_numbers(seed, num_samples=num_samples)
    check_one_of("template", template, prompts)
    check_source("template", template, source)
    control = control or ControlOptions()
    for name in ("prefix", "suffix", "prefix_field", "suffix_field"):
        if getattr(control, name):
            raise ValueError(f"`--control.{name}` has no effect: a template says what is known.")
    job = JobOptions(
        prompts, output, prompts_format, columns, on_error, shard, start_over, batch_size
    )
    job.check()
    settings = TextSettings(num_inference_steps, guidance_scale, seed, False, sampling, precision)
    text = TextWorkOptions(
        pipeline, settings, num_samples, source_field, scheduler, batch_size if compile else None
    )
    field = prompt_field(prompts, prompts_format, template_field)
    options = ControlledWorkOptions(
        text, control, template, None if template is not None else field, source
    )
    report = run_job(options.load(), job, show=lambda records: show(records, "template"))
    return finish(report, output)


def edit(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    strength: float,
    text: str | None = None,
    prompts: Path | None = None,
    output: Path | None = None,
    source: str | None = None,
    protect: tuple[str, ...] = (),
    change: tuple[str, ...] = (),
    text_field: str = "text",
    source_field: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    num_samples: int = 1,
    scheduler: SchedulerName | None = None,
    sampling: Sampling | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    prompts_format: PromptsFormat | None = None,
    columns: tuple[str, ...] = (),
    on_error: OnError = "stop",
    shard: str | None = None,
    start_over: bool = False,
) -> int:
    """Change texts: noise their latents part of the way, and denoise them again.

    Args:
        pipeline: Folder of a latent pipeline.
        strength: Share of the way back to noise, in [0, 1]; 0 returns the text as it is.
        text: One text to change.
        prompts: File of texts in place of one, as for ``generate``.
        output: File to write; without it, texts are printed.
        source: Condition under which ``text`` is written anew.
        protect: Phrases of the texts that stay, such as ``[The Vaults]``.
        change: Phrases outside of which all stays.
        text_field: Field of the text in JSON Lines and tables.
        source_field: Field of the condition, if rows have one.
        num_inference_steps: Steps of the sampler for the whole way; an edit takes its share.
        guidance_scale: Weight of classifier-free guidance, 1 is off.
        seed: Seed of the noise.
        batch_size: Rows that are changed together.
        num_samples: Texts for each row.
        scheduler: Scheduler in place of the pipeline's own.
        sampling: Further options of the pipeline's sampler.
        precision: Type the networks compute in.
        compile: Compile the networks, see ``generate``.
        prompts_format: JSON Lines or lines of text, where the name of the file does not say it.
        columns: Columns to carry through.
        on_error: Whether a row that cannot be used ends the job, or goes to OUTPUT.rejects.jsonl.
        shard: ``i/n`` does the i-th of n parts.
        start_over: Forget what an earlier run with the same output has done.

    Returns:
        The exit code: 0, or 3 if rows were rejected.
    """
    check_numbers(seed, num_samples=num_samples)
    check_one_of("text", text, prompts)
    check_strength(strength)
    check_source("text", text, source)
    job = JobOptions(
        prompts, output, prompts_format, columns, on_error, shard, start_over, batch_size
    )
    job.check()
    settings = TextSettings(num_inference_steps, guidance_scale, seed, False, sampling, precision)
    work = TextWorkOptions(
        pipeline, settings, num_samples, source_field, scheduler, batch_size if compile else None
    )
    field = prompt_field(prompts, prompts_format, text_field)
    options = EditWorkOptions(work, strength, text, field, source, tuple(protect), tuple(change))
    report = run_job(options.load(), job, show=lambda records: show(records, "original"))
    return finish(report, output)


def check_one_of(name: str, value: str | None, prompts: Path | None) -> None:
    """Refuse a command without texts, or with two kinds of them.

    Raises:
        ValueError: If it is such a one.
    """
    if (value is None) == (prompts is None):
        raise ValueError(f"Give `--{name}`, or a file of them by `--prompts`, and not both.")


def check_source(name: str, value: str | None, source: str | None) -> None:
    """Refuse one condition for a file of texts.

    Raises:
        ValueError: If it is such a one.
    """
    if source is not None and value is None:
        raise ValueError(f"`--source` goes with `--{name}`; name a column by `--source_field`.")


def show(records: list[Record], before: str) -> None:
    """Print texts beside what they were made from."""
    for record in records:
        sys.stdout.write(f"{record[before]}\n  -> {record['text']}\n\n")
    sys.stdout.flush()
