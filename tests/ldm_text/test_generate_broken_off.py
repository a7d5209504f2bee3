"""Generations that end early and are gone on with, and those in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Runs that end early


@pytest.fixture
def fail_at_second_chunk(monkeypatch):
    """Let the commit of the second chunk, of 8 texts, fail when it is half written."""

    def arrange(error):
        def write_or_fail(file, content):
            file.write(content[: len(content) // 2])
            if file.tell() > len(content):
                raise error
            file.write(content[len(content) // 2 :])

        monkeypatch.setattr("ldm_text.batch.output_file.write_all", write_or_fail)

    return arrange


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted."),
        (OSError(28, "No space left on device"), 2, "[Errno 28] No space left on device."),
    ],
)
def test_a_run_that_ends_early_keeps_whole_rows_and_is_gone_on_with(
    generate, prompts, fail_at_second_chunk, monkeypatch, tmp_path, error, code, message, read_lines
):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    output.write_text("of an earlier run\n")
    options = ["--prompts", prompts, "--batch_size", 1, "--num_samples", 4, "--output"]
    with monkeypatch.context():
        fail_at_second_chunk(error)
        note = (
            f"`{partial}` holds the 8 rows written until then; the same command goes on behind "
            "them."
        )
        expected = (code, "", f"ldm-text: error: {message} {note}\n")
        assert generate(*options, output) == expected
        monkeypatch.undo()
    assert [row["id"] for row in read_lines(partial)] == [0] * 4 + [1] * 4
    assert output.read_text() == "of an earlier run\n"
    _, printed, _ = generate(*options, output)
    assert "4 texts, " in printed
    assert printed.endswith(f"written to {output} behind the 8 of earlier runs\n")
    assert generate(*options, tmp_path / "unbroken.jsonl")[0] == 0
    assert output.read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]


def test_a_new_run_replaces_what_an_earlier_one_left(generate, tmp_path, read_lines):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    output.write_text("old\n")
    partial.write_text("left over\n")
    assert generate("--output", output)[0] == 0
    assert [row["id"] for row in read_lines(output)] == [0]
    assert not partial.exists()


def test_a_job_of_another_model_is_refused(
    generate, prompts, pipeline_folder, fail_at_second_chunk, monkeypatch, tmp_path
):
    options = ["--prompts", prompts, "--batch_size", 1, "--num_samples", 4, "--output"]
    options.append(tmp_path / "out.jsonl")
    fail_at_second_chunk(KeyboardInterrupt())
    assert generate(*options)[0] == 130
    monkeypatch.undo()
    for changed, name in (
        (["--seed", 1], "`seed` (0, now 1)"),
        (["--num_inference_steps", 4], "`num_inference_steps` (3, now 4)"),
        (["--scheduler", "dpm++"], '`scheduler` (null, now "dpm++")'),
    ):
        code, _, error = generate(*options, *changed)
        assert (code, f"differs in {name}. " in error) == (2, True)
    weights = pipeline_folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "differs in `weights`. " in generate(*options)[2]
    assert generate(*options, "--start_over")[0] == 0


# Real processes


@pytest.fixture
def command(pipeline_folder):
    """Start ``ldm-text generate`` in a process of its own."""

    def start(*options):
        script = Path(sys.executable).with_name("ldm-text")
        common = ["--pipeline", pipeline_folder, "--num_inference_steps", 3]
        common += ["--precision", "float32"]
        return subprocess.Popen(
            [sys.executable, script, "generate", *map(str, common + list(options))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.slow
def test_the_command_is_killed_and_gone_on_with(command, generate, write_prompts, tmp_path):
    path = write_prompts(*(json.dumps({"source": f"name[{n}]"}) for n in range(400)))
    options = ["--prompts", path, "--batch_size", 4, "--output", tmp_path / "out.jsonl.gz"]
    process = command(*options)
    journal = tmp_path / "out.jsonl.gz.job.json"
    while not (journal.exists() and json.loads(journal.read_text())["state"]["num_chunks"]):
        assert process.poll() is None
    process.kill()
    process.communicate()
    printed, error = command(*options).communicate()
    assert error == ""
    assert " behind the " in printed
    assert generate(*options[:-1], tmp_path / "whole.jsonl.gz")[0] == 0
    assert (tmp_path / "out.jsonl.gz").read_bytes() == (tmp_path / "whole.jsonl.gz").read_bytes()


@pytest.mark.slow
def test_two_devices_write_the_file_of_one(command, generate, write_prompts, tmp_path):
    path = write_prompts(*(json.dumps({"source": f"name[{n}]"}) for n in range(60)))
    options = ["--prompts", path, "--batch_size", 2, "--output", tmp_path / "out.jsonl"]
    process = command(*options, "--devices", 2)
    printed, error = process.communicate()
    assert process.returncode == 0, error
    assert printed.startswith("60 texts, ")
    assert generate(*options[:-1], tmp_path / "whole.jsonl")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
