"""Rows of generated texts, and ``ldm-text generate``, which writes them."""

import io
import json
import sys
from dataclasses import asdict
from itertools import chain

import pytest
import torch

from autoencoder.bfloat16 import has_native_bfloat16
from denoiser.schedulers import make_scheduler
from ldm_text.batch.progress import Progress
from ldm_text.generated_rows import generate_rows, row_generator
from ldm_text.pipeline import LatentTextPipeline

CPU = torch.device("cpu")


@pytest.fixture
def rows_of(pipeline, sources):
    def run(prompts=sources, pipeline=pipeline, **options):
        options = {"num_inference_steps": 3, "precision": "float32"} | options
        return list(chain.from_iterable(generate_rows(pipeline, prompts, **options)))

    return run


def texts(rows):
    return [row.text for row in rows]


# Rows and their noise


def test_rows_hold_all_that_is_needed_to_repeat_them(rows_of):
    rows = rows_of(["name[The Mill]", None], num_samples=2, seed=5, guidance_scale=2.0)
    common = {"seed": 5, "num_inference_steps": 3, "guidance_scale": 2.0}
    assert [{**asdict(row), "text": ""} for row in rows] == [
        {"id": row, "source": source, "text": "", "sample": sample} | common
        for row, source in enumerate(["name[The Mill]", None])
        for sample in (0, 1)
    ]
    assert len(set(texts(rows))) == 4
    assert rows_of(["name[The Mill]"])[0].guidance_scale == 3.0  # that of the pipeline


@pytest.mark.parametrize("name", ["euler", "dpm++_sde"])
def test_a_text_is_the_same_in_batches_of_any_size_in_float32(pipeline, rows_of, name):
    pipeline.scheduler = make_scheduler(name, 4.0)
    expected = rows_of(num_samples=3, batch_size=15)
    assert len(set(texts(expected))) == 15
    for batch_size in (1, 2, 7, 64):
        assert rows_of(num_samples=3, batch_size=batch_size) == expected


@pytest.mark.skipif(not has_native_bfloat16(CPU), reason="takes half a minute where emulated")
def test_nearly_all_texts_are_the_same_in_batches_of_any_size_in_bfloat16(rows_of):
    """All of 40 were equal on one processor and 35 on another: rounding differs."""
    options = {"num_samples": 8, "precision": "bfloat16"}
    expected = texts(rows_of(batch_size=40, **options))
    for batch_size in (1, 7):
        pairs = zip(expected, texts(rows_of(batch_size=batch_size, **options)), strict=True)
        assert sum(left == right for left, right in pairs) >= 32


def test_a_text_does_not_depend_on_the_other_prompts_or_on_the_number_of_samples(rows_of, sources):
    expected = rows_of(num_samples=3)
    assert rows_of(num_samples=1) == [row for row in expected if row.sample == 0]
    changed = rows_of(["other prompt", *sources[1:3]], num_samples=3)
    assert changed[3:] == expected[3:9]


def test_seed_row_and_sample_each_give_other_noise():
    keys = [(seed, row, sample) for seed in range(3) for row in range(3) for sample in range(3)]
    noise = {torch.randn(8, generator=row_generator(*key, CPU)) for key in keys}
    assert len({tuple(values.tolist()) for values in noise}) == 27
    first, again = (torch.randn(8, generator=row_generator(1, 2, 3, CPU)) for _ in range(2))
    assert torch.equal(first, again)


def test_seeds_that_would_share_the_noise_of_small_ones_are_refused(rows_of):
    """Row 5 of seed 2**32 had the noise of sample 5 of row 1 of seed 0."""
    assert texts(rows_of(seed=2**32 - 1)) != texts(rows_of(seed=2**32 - 2))
    for seed in (2**32, 2**70):
        with pytest.raises(ValueError, match=r"`seed` must be below 4294967296 \(2\*\*32\), got"):
            row_generator(seed, 5, 0, CPU)


def test_precision_is_that_of_the_networks(pipeline, rows_of):
    seen = []
    pipeline.denoiser.out.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    for precision in ("float32", "bfloat16"):
        rows_of(["a"], num_inference_steps=1, precision=precision)
    assert seen == [torch.float32, torch.bfloat16]


# The command


def test_file_of_prompts_becomes_a_file_of_texts(
    generate, prompts, pipeline_folder, rows_of, tmp_path, sources, read_lines
):
    output = tmp_path / "out.jsonl"
    options = ["--num_samples", 2, "--seed", 4, "--batch_size", 3, "--guidance_scale", 1.5]
    code, printed, error = generate("--prompts", prompts, "--output", output, *options)
    assert (code, error) == (0, "")
    rows = read_lines(output)
    expected = rows_of(
        [prompt for prompt in sources if prompt],
        LatentTextPipeline.from_pretrained(pipeline_folder),
        num_samples=2,
        seed=4,
        guidance_scale=1.5,
    )
    assert rows == [asdict(row) for row in expected]
    assert printed.startswith("6 texts, ")
    assert printed.endswith(f"tokens/s, 6 denoiser calls, written to {output}\n")


def test_without_output_the_texts_are_printed_beside_their_sources(
    generate, prompts, rows_of, sources
):
    code, printed, _ = generate("--prompts", prompts)
    assert code == 0
    for row in rows_of([prompt for prompt in sources if prompt]):
        assert f"{row.source}\n  -> {row.text}\n" in printed


def test_lines_of_text_are_prompts_too(generate, write_prompts, tmp_path, read_lines):
    path = write_prompts("name[The Mill]", "", "a pub", name="prompts.txt")
    assert generate("--prompts", path, "--output", tmp_path / "out.jsonl")[0] == 0
    assert [row["source"] for row in read_lines(tmp_path / "out.jsonl")] == [
        "name[The Mill]",
        "a pub",
    ]


def test_without_prompts_texts_are_unconditional(generate, tmp_path, read_lines):
    assert generate("--num_samples", 3, "--output", tmp_path / "out.jsonl")[0] == 0
    rows = read_lines(tmp_path / "out.jsonl")
    assert [(row["id"], row["source"], row["sample"]) for row in rows] == [
        (0, None, n) for n in range(3)
    ]


def test_a_scheduler_can_be_chosen(generate, rows_of, pipeline, tmp_path, read_lines):
    assert generate("--scheduler", "dpm++_sde", "--output", tmp_path / "out.jsonl")[0] == 0
    written = [row["text"] for row in read_lines(tmp_path / "out.jsonl")]
    assert written != texts(rows_of([None]))
    pipeline.scheduler = make_scheduler("dpm++_sde", 4.0)
    assert written == texts(rows_of([None]))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys, is_terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("COLUMNS", "200")
    with Progress(total=8, num_done=2) as progress:
        progress.advance(4, 40)
        progress.bar.refresh()
    printed, shown = capsys.readouterr()
    assert printed == ""
    assert ("6/8" in shown and "texts/s" in shown and "tokens/s" in shown) == is_terminal
    assert progress.num_tokens == 40


# Jobs


def test_rejected_prompts_give_an_exit_code_of_their_own(
    generate, write_prompts, tmp_path, read_lines
):
    path = write_prompts('{"source": "a"}', "{", json.dumps({"source": "a pub " * 20}))
    output = tmp_path / "out.jsonl"
    code, printed, error = generate("--prompts", path, "--output", output, "--on_error", "reject")
    assert (code, error) == (3, "")
    assert printed.endswith(f"written to {output}; 2 rejected, see {output}.rejects.jsonl\n")
    rejects = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert [(row["id"], row["line"]) for row in rejects] == [(1, 2), (2, 3)]
    assert rejects[1]["reason"].startswith("the prompt has ")


def test_standard_input_and_output_make_a_pipe(generate, rows_of, monkeypatch, sources):
    lines = "".join(json.dumps({"source": prompt}) + "\n" for prompt in sources[:2])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    code, printed, error = generate("--prompts", "-", "--output", "-")
    assert code == 0
    assert [json.loads(line) for line in printed.splitlines()] == [
        asdict(row) for row in rows_of(sources[:2])
    ]
    assert error.startswith("2 texts, ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"name[The Mill]\n")))
    error = generate("--prompts", "-", "--output", "-")[2]
    assert error.endswith("For lines of text give `--prompts_format txt`.\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"name[The Mill]\n")))
    options = ["--prompts", "-", "--prompts_format", "txt", "--output", "-"]
    assert json.loads(generate(*options)[1])["text"] == texts(rows_of(sources[:1]))[0]


def test_columns_and_shards_by_the_command(generate, write_prompts, rows_of, tmp_path, read_lines):
    path = write_prompts(*(json.dumps({"source": "a", "city": n}) for n in range(3)))
    for part in (1, 2):
        options = ["--prompts", path, "--columns", "[city]", "--shard", f"{part}/2"]
        assert generate(*options, "--output", tmp_path / f"{part}.jsonl")[0] == 0
    rows = [row for part in (1, 2) for row in read_lines(tmp_path / f"{part}.jsonl")]
    expected = [asdict(row) for row in rows_of(["a"] * 3)]
    assert rows == [row | {"city": n} for n, row in enumerate(expected)]
