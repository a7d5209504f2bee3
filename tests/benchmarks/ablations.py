r"""Train and measure the rows of configs/ablations/rows.yaml, and write them as a table.

    LDM_TEXT_DATA=data python tests/benchmarks/ablations.py --data e2e --seeds [0,1,2]
    python tests/benchmarks/ablations.py --data e2e --table docs/ablations_e2e.md

Each training is the command ``ldm-text fit``; rows that share a stage share its training. Each row
and seed is one line in logs/ablations/DATA/results.jsonl, or in the file of ``--results``, which
several machines and sessions may add to. What is finished is not done again, what was broken off
goes on. E2E is measured by BLEU against all references and slot errors, at 4 and 16
steps with guidance 3; TinyStories by distances of sentence embeddings, at 8 steps (extra
``evaluate``), and by perplexity under a ``--scorer``, which unlike the embeddings knows nothing of
the pretrained encoder that two rows take.
"""

import csv
import hashlib
import json
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # where it is imported by a test

from ablation_plot import plot_differences
from ablation_rows import ROOT, STAGES, Row, Training, read_rows, training_of
from ablation_table import AUTOENCODER_FIGURES, markdown_table
from jsonargparse import auto_cli

ROWS = ROOT / "configs" / "ablations" / "rows.yaml"
# Where to look, and how texts are generated.
DATA: dict[str, dict[str, Any]] = {
    "e2e": {
        "path": "e2e_nlg/validation.jsonl.xz",
        "training": "e2e_nlg/train.jsonl.xz",
        "fields": {"text_field": "target", "source_field": "source"},
        "references_field": "references",
        "steps": (16, 4),
        "guidance_scale": 3.0,
    },
    "tinystories": {
        "path": "tinystories/validation.jsonl.xz",
        "fields": {"text_field": "text"},
        "steps": (8,),
        "guidance_scale": 1.0,  # there is no source
    },
}
logger = logging.getLogger("ablations")


def run_rows(
    data: Literal["e2e", "tinystories"] = "e2e",
    rows: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    budget: float = 1.0,
    folder: Path = ROOT / "logs" / "ablations",
    max_rows: int = 1000,
    options: tuple[str, ...] = (),
    scorer: str | None = None,
    results: Path | None = None,
    table: Path | None = None,
    plot: Path | None = None,
) -> int:
    """Train and measure what is missing, or write the table and the plot of what is there.

    Args:
        data: Data set.
        rows: Names of rows; by default all of the data set.
        seeds: Seeds of training and sampling.
        budget: Factor of the steps of each training, such as 0.25.
        folder: Where trainings and pipelines are kept.
        max_rows: Most sources, or texts where there are no sources, to measure on.
        options: Further options of each ``ldm-text fit``.
        scorer: Language model for the perplexity of the texts, as for ``ldm-text evaluate``.
        results: JSON Lines file of the results; by default in ``folder``.
        table: Markdown file to write, in place of trainings.
        plot: PNG file of the differences from the base to write, in place of trainings.

    Returns:
        The exit code: 1 if a row has failed; the others are done.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    all_rows = read_rows(ROWS)
    if unknown := set(rows) - all_rows.keys():
        raise ValueError(f"`--rows`: there are no rows {', '.join(sorted(unknown))}.")
    chosen = [all_rows[name] for name in rows or all_rows if data in all_rows[name].data]
    results = results or folder / data / "results.jsonl"
    if table is not None:
        table.write_text(markdown_table(chosen, read_results(results), budget))
    if plot is not None:
        plot_differences(chosen, read_results(results), budget, plot)
    if table is not None or plot is not None:
        return 0
    failed = []
    for seed in seeds:
        for row in chosen:
            logger.info("%s, seed %d", row.name, seed)
            place = folder / data / f"budget_{budget:g}_seed_{seed}"
            common = {"data": data, "seed": seed, "budget": budget, "options": options}
            try:
                trainings = [training_of(all_rows, row, each, place, **common) for each in STAGES]
                done = [one for one in trainings if one is not None]
                measure_row(row, done, results, max_rows, scorer)
            except (subprocess.CalledProcessError, OSError, ValueError) as error:
                logger.info("%s, seed %d failed: %s", row.name, seed, error)
                failed.append((row.name, seed))
    if failed:
        logger.info("Failed: %s", failed)
    return 1 if failed else 0


def measure_row(
    row: Row, trainings: list[Training], results: Path, max_rows: int, scorer: str | None
) -> None:
    """Train, generate, and append a line, unless the line is there."""
    first, last = trainings[0], trainings[-1]
    key = {"row": row.name, "data": last.data, "seed": last.seed, "budget": last.budget}
    parts = [last.digest(), row.sampling, max_rows] + ([] if scorer is None else [scorer])
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    if any(line["digest"] == digest for line in read_results(results)):
        return
    last.run()
    from ldm_text.training_report import describe_run

    runs = [describe_run(training.checkpoint) for training in trainings]
    line: dict[str, Any] = key | {"digest": digest}
    line["training_minutes"] = sum(run["training_seconds"] for run in runs) / 60
    line["training_flops"] = sum(run["training_flops"] for run in runs) / 1e13
    line["autoencoder"] = last_metrics(first.folder / "metrics.csv")
    line |= measure_texts(row, last, max_rows, scorer)
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


def measure_texts(
    row: Row, training: Training, max_rows: int, scorer: str | None
) -> dict[str, Any]:
    """Export a denoiser, and measure its texts at each number of steps."""
    from denoiser.schedulers import make_scheduler, noise_shift_of
    from ldm_text.evaluation.reports import describe_pipeline
    from ldm_text.evaluation.sweep import SamplerSetting, Sweep
    from ldm_text.export import export
    from ldm_text.pipeline import LatentTextPipeline

    data, sampling = DATA[training.data], dict(row.sampling)
    pipeline_folder = training.folder / "pipeline"
    export(training.checkpoint, pipeline_folder, dtype="float32", overwrite=True)
    pipeline = LatentTextPipeline.from_pretrained(pipeline_folder)
    if "scheduler" in sampling or "noise_shift" in sampling:  # else that of the training
        shift = sampling.pop("noise_shift", noise_shift_of(pipeline.scheduler))
        pipeline.scheduler = make_scheduler(sampling.pop("scheduler", "euler"), shift)
    steps = sampling.pop("num_inference_steps", data["steps"])
    scale = sampling.pop("guidance_scale", data["guidance_scale"])
    sweep = Sweep(
        pipeline,
        make_evaluator(training.data, str(pipeline_folder / "tokenizer"), max_rows, scorer),
        sampling.pop("options", None),
        precision="float32",
    )
    if sampling:
        raise ValueError(f"{row.name}: unknown in `sampling`: {', '.join(sampling)}.")
    return {
        "parameters": describe_pipeline(pipeline)["parameters"] / 1e6,
        "texts": [sweep.measure(SamplerSetting(each, scale), training.seed) for each in steps],
    }


@cache
def make_evaluator(data_set: str, tokenizer: str, max_rows: int, scorer: str | None) -> Any:
    """Read the validation split, and what it is measured with; the same for each row."""
    from ldm_text.data.records import read_records
    from ldm_text.evaluation.embedder import SentenceEmbedder
    from ldm_text.evaluation.evaluator import TextEvaluator
    from ldm_text.evaluation.references import cut_long_texts, group_by_source
    from ldm_text.evaluation.scorer import Scorer
    from ldm_text.tokenizer import load_tokenizer

    data, root = DATA[data_set], Path(os.environ.get("LDM_TEXT_DATA", "data"))
    fields, references = data["fields"], data.get("references_field")
    records = list(read_records(str(root / data["path"]), references_field=references, **fields))
    slot_sources: list[str] = []
    embedder = None
    if references is None:  # windows of one length, as in training
        records = cut_long_texts(records, "split", load_tokenizer(tokenizer), 64)
        embedder = SentenceEmbedder.from_pretrained()
    else:
        training = read_records(str(root / data["training"]), **fields)
        slot_sources = [record.source for record in training if record.source is not None]
    records = group_by_source(records)
    records = records[:: -(-len(records) // max_rows)]  # spread over the file
    judge = None if scorer is None else Scorer.from_pretrained(scorer)
    return TextEvaluator(records, scorer=judge, embedder=embedder, slot_sources=slot_sources)


def last_metrics(path: Path) -> dict[str, float]:
    """Read the last value of each figure of a training that is in the table."""
    with path.open() as file:
        lines = list(csv.DictReader(file))
    values = {name: value for line in lines for name, value in line.items() if value}
    return {name: float(values[name]) for name in AUTOENCODER_FIGURES if name in values}


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the lines of an earlier run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(auto_cli(run_rows, as_positional=False))
