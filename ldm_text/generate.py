"""``ldm-text generate``: write texts for a file of prompts, or without prompts."""

import sys
from pathlib import Path

from denoiser.schedulers import SchedulerName
from ldm_text.batch.job import JobReport, run_job
from ldm_text.batch.line_inputs import STANDARD_STREAM, PromptsFormat, prompt_field
from ldm_text.batch.options import JobOptions, OnError
from ldm_text.batch.texts import TextWorkOptions
from ldm_text.batch.work import Record
from ldm_text.control.options import ControlOptions
from ldm_text.control.work import ControlledWorkOptions
from ldm_text.generated_rows import Sampling, TextSettings, check_seed
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import Precision


def generate(  # noqa: PLR0913 (the signature is the command line)
    pipeline: Path,
    prompts: Path | None = None,
    output: Path | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    num_samples: int = 1,
    scheduler: SchedulerName | None = None,
    sampling: Sampling | None = None,
    control: ControlOptions | None = None,
    source_field: str | None = "source",
    truncate: bool = False,
    precision: Precision = "auto",
    compile: bool = False,
    prompts_format: PromptsFormat | None = None,
    columns: tuple[str, ...] = (),
    on_error: OnError = "stop",
    shard: str | None = None,
    start_over: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    ray_workers: int | None = None,
) -> int:
    """Write one text, or several, for each prompt.

    Args:
        pipeline: Folder of the pipeline.
        prompts: JSON Lines with the source field or lines of text (also .gz, .xz, .zst), Parquet,
            the folder of a Hugging Face dataset, or ``-`` for standard input; without it, texts are
            generated unconditionally.
        output: File to write, ``-`` for standard output; its name says whether it is JSON Lines
            (.gz, .xz and .zst are compressed) or Parquet. The same command goes on with a file that
            was broken off. Without it, texts are printed beside their sources.
        num_inference_steps: Steps of the sampler, between 1 and 1000; by default the latent
            pipeline's own (16, a student's fewer) and the longest text's number of tokens for a
            discrete one. An autoregressive one takes none.
        guidance_scale: Weight of classifier-free guidance, 1 is off; default is the pipeline's.
        seed: Seed of the noise; a row's text depends on it, its row and its sample number alone.
        batch_size: Samples that go through the network together; halved when memory runs out.
        num_samples: Texts for each prompt.
        scheduler: Scheduler in place of a latent pipeline's own.
        sampling: Further options of the pipeline's sampler, such as ``--sampling.temperature 0.7``
            for the baselines and ``--sampling.clamp_start 0.3`` for a latent pipeline.
        control: Known text, lengths, constraints, candidates, guidance and trace, see
            docs/control.md, such as ``--control.prefix "The Vaults is"``.
        source_field: Name of the source in JSON Lines and tables; null for rows without sources,
            which may have labels, see ``--control.label_field``.
        truncate: Cut prompts that are longer than the model's maximum instead of refusing them.
        precision: Type the networks compute in; auto is bfloat16 where the device computes it
            natively, else float32.
        compile: Compile the networks for batches of ``batch_size``; smaller ones are filled up.
            That takes half a minute or more, and pays from some thousand texts on, sooner with many
            steps. Rounding is another: in bfloat16 some texts come out otherwise.
        prompts_format: JSON Lines or lines of text, where the name of the prompts does not say it.
        columns: Columns of the prompts to carry through, such as ``[id, city]``; one with the name
            of a field of the output becomes ``input_NAME``.
        on_error: Whether a prompt that cannot be used ends the job before it begins, or goes to
            OUTPUT.rejects.jsonl; the exit code is then 3.
        shard: ``i/n`` does the i-th of n parts; their outputs one behind the other are the whole.
        start_over: Forget what an earlier run with the same output has done.
        devices: Processes on each machine, one a device.
        num_nodes: Machines; each runs the same command, started by torchrun or SLURM.
        ray_workers: Workers on a Ray cluster in place of devices (extra `ray`).

    Returns:
        The exit code: 0, or 3 if prompts were rejected.
    """
    check_numbers(seed, num_samples=num_samples, devices=devices, num_nodes=num_nodes)
    options = JobOptions(
        prompts, output, prompts_format, columns, on_error, shard, start_over, batch_size
    )
    options.check()
    has_sources = prompts is not None and source_field is not None
    field = prompt_field(prompts, prompts_format, source_field) if has_sources else None
    work_options = TextWorkOptions(
        pipeline,
        TextSettings(num_inference_steps, guidance_scale, seed, truncate, sampling, precision),
        num_samples,
        field,
        scheduler,
        batch_size if compile else None,
    )
    if control is not None:
        if control.trace is not None and (devices * num_nodes > 1 or ray_workers is not None):
            raise ValueError(
                "`--control.trace` shows one text, the first that is written: leave `--devices`, "
                "`--num_nodes` and `--ray_workers` out."
            )
        work_options = ControlledWorkOptions(work_options, control)
    if ray_workers is not None:
        if devices * num_nodes > 1:
            raise ValueError("`--ray_workers` and `--devices` exclude each other; give one.")
        from ldm_text.batch.ray import run_job_on_ray

        job_report = run_job_on_ray(work_options.load, options, ray_workers)
        return finish(job_report, output)
    work = work_options.load()
    if devices * num_nodes > 1:
        from ldm_text.batch.predict import run_job_on_devices

        job_report = run_job_on_devices(work, options, devices, num_nodes)
        return 0 if job_report is None else finish(job_report, output)
    calls: list[None] = []
    work.pipeline.network.register_forward_pre_hook(lambda *_: calls.append(None))
    job_report = run_job(work, options, print_texts if output is None else None)
    network = "denoiser" if isinstance(work.pipeline, LatentTextPipeline) else "network"
    return finish(job_report, output, f", {len(calls)} {network} calls")


def check_numbers(seed: int, **counts: int) -> None:
    """Refuse a seed that is out of range, or a count that is too small.

    Args:
        seed: The seed, see ``row_generator``.
        counts: Numbers of things, 1 or larger, by the names of their options.

    Raises:
        ValueError: If one is such a one.
    """
    check_seed("--seed", seed)
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {value}.")


def print_texts(records: list[Record]) -> None:
    """Print texts beside their sources."""
    for record in records:
        source = "" if record["source"] is None else f"{record['source']}\n  -> "
        sys.stdout.write(f"{source}{record['text']}\n\n")
    sys.stdout.flush()


def finish(job_report: JobReport, output: Path | None, calls: str = "") -> int:
    """Print what the job took, and return its exit code."""
    stream = sys.stderr if output == STANDARD_STREAM else sys.stdout
    stream.write(f"{describe(job_report, calls)}{written_to(job_report, output)}\n")
    return job_report.exit_code


def describe(job_report: JobReport, calls: str) -> str:
    """Say what a job gave and how fast: reading, tokenization and writing are included."""
    texts, tokens, seconds = job_report.num_records, job_report.num_tokens, job_report.seconds
    return (
        f"{texts} texts, {tokens} tokens in {seconds:.1f} s: "
        f"{texts / seconds:.1f} texts/s, {tokens / seconds:.0f} tokens/s{calls}"
    )


def written_to(job_report: JobReport, output: Path | None) -> str:
    """Say where the texts are, those of earlier runs and what was rejected, too."""
    if output is None or output == STANDARD_STREAM:
        return ""
    earlier = job_report.num_earlier_records
    behind = f" behind the {earlier} of earlier runs" if earlier else ""
    rejects = job_report.num_rejects
    rejected = f"; {rejects} rejected, see {output}.rejects.jsonl" if rejects else ""
    return f", written to {output}{behind}{rejected}"
