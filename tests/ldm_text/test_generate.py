import io
import json
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch

from denoiser.schedulers import make_scheduler
from ldm_text.batch.progress import Progress
from ldm_text.generated_rows import generate_rows, row_generator
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import has_native_bfloat16

PROMPTS = ["name[The Mill]", "", None, "The Punter is a coffee shop.", "name[Zizzi], food[French]"]
CPU = torch.device("cpu")


@pytest.fixture
def rows_of(pipeline):
    def run(prompts=PROMPTS, pipeline=pipeline, **options):
        options = {"num_inference_steps": 3, "precision": "float32"} | options
        return list(chain.from_iterable(generate_rows(pipeline, prompts, **options)))

    return run


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


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


def test_a_text_does_not_depend_on_the_other_prompts_or_on_the_number_of_samples(rows_of):
    expected = rows_of(num_samples=3)
    assert rows_of(num_samples=1) == [row for row in expected if row.sample == 0]
    changed = rows_of(["other prompt", *PROMPTS[1:3]], num_samples=3)
    assert changed[3:] == expected[3:9]


def test_seed_row_and_sample_each_give_other_noise():
    keys = [(seed, row, sample) for seed in range(3) for row in range(3) for sample in range(3)]
    noise = {torch.randn(8, generator=row_generator(*key, CPU)) for key in keys}
    assert len({tuple(values.tolist()) for values in noise}) == 27
    first, again = (torch.randn(8, generator=row_generator(1, 2, 3, CPU)) for _ in range(2))
    assert torch.equal(first, again)


def test_a_large_seed_is_as_good_as_a_small_one(rows_of):
    assert texts(rows_of(seed=2**70)) != texts(rows_of(seed=2**70 + 1))


def test_precision_is_that_of_the_networks(pipeline, rows_of):
    seen = []
    pipeline.denoiser.out.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    for precision in ("float32", "bfloat16"):
        rows_of(["a"], num_inference_steps=1, precision=precision)
    assert seen == [torch.float32, torch.bfloat16]


# The command


@pytest.fixture
def write_prompts(tmp_path):
    def write(*lines, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def prompts(write_prompts):
    return write_prompts(*(json.dumps({"source": prompt}) for prompt in PROMPTS if prompt))


@pytest.fixture
def generate(main, pipeline_folder):
    """Run ``ldm-text generate``; return its exit code, standard output and standard error."""
    common = ["--pipeline", pipeline_folder, "--num_inference_steps", 3, "--precision", "float32"]
    return partial(main, "generate", *common)


@pytest.fixture
def refused(generate, tmp_path):
    """Expect one line, exit code 2 and no output at all."""

    def run(message, *options):
        output = tmp_path / "out.jsonl"
        code, printed, error = generate(
            *([] if "--output" in options else ["--output", output]), *options
        )
        assert (code, printed) == (2, "")
        assert error.startswith("ldm-text: error: ")
        assert error.count("\n") == 1
        assert message in error
        assert not list(tmp_path.glob("out.jsonl*"))

    return run


def test_file_of_prompts_becomes_a_file_of_texts(
    generate, prompts, pipeline_folder, rows_of, tmp_path
):
    output = tmp_path / "out.jsonl"
    options = ["--num_samples", 2, "--seed", 4, "--batch_size", 3, "--guidance_scale", 1.5]
    code, printed, error = generate("--prompts", prompts, "--output", output, *options)
    assert (code, error) == (0, "")
    rows = read_lines(output)
    expected = rows_of(
        [prompt for prompt in PROMPTS if prompt],
        LatentTextPipeline.from_pretrained(pipeline_folder),
        num_samples=2,
        seed=4,
        guidance_scale=1.5,
    )
    assert rows == [asdict(row) for row in expected]
    assert printed.startswith("6 texts, ")
    assert printed.endswith(f"tokens/s, 6 denoiser calls, written to {output}\n")


def test_without_output_the_texts_are_printed_beside_their_sources(generate, prompts, rows_of):
    code, printed, _ = generate("--prompts", prompts)
    assert code == 0
    for row in rows_of([prompt for prompt in PROMPTS if prompt]):
        assert f"{row.source}\n  -> {row.text}\n" in printed


def test_lines_of_text_are_prompts_too(generate, write_prompts, tmp_path):
    path = write_prompts("name[The Mill]", "", "a pub", name="prompts.txt")
    assert generate("--prompts", path, "--output", tmp_path / "out.jsonl")[0] == 0
    assert [row["source"] for row in read_lines(tmp_path / "out.jsonl")] == [
        "name[The Mill]",
        "a pub",
    ]


def test_without_prompts_texts_are_unconditional(generate, tmp_path):
    assert generate("--num_samples", 3, "--output", tmp_path / "out.jsonl")[0] == 0
    rows = read_lines(tmp_path / "out.jsonl")
    assert [(row["id"], row["source"], row["sample"]) for row in rows] == [
        (0, None, n) for n in range(3)
    ]


def test_a_scheduler_can_be_chosen(generate, rows_of, pipeline, tmp_path):
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


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"source": "a"}', "{"], "prompts.jsonl, line 2: not JSON"),
        (['{"source": "a"}', '"a"'], "prompts.jsonl, line 2: expected a JSON object, got str"),
        (['{"target": "a"}'], "line 1: no field `source`; the fields there are 'target'"),
        (['{"source": null}'], "line 1: field `source` must be a string, got NoneType"),
        ([], "prompts.jsonl holds no records"),
        (["  ", ""], "prompts.jsonl holds no records"),
    ],
)
def test_a_wrong_file_of_prompts_is_refused_with_its_line(refused, write_prompts, lines, message):
    refused(message, "--prompts", write_prompts(*lines))


def test_message_about_prompts_names_the_option_and_what_it_takes(generate, write_prompts):
    _, _, error = generate("--prompts", write_prompts('{"source": 1}'), "--source_field", "mr")
    assert error.startswith("ldm-text: error: `--prompts`: ")
    assert error.endswith(
        "prompts.jsonl, line 1: no field `mr`; the fields there are 'source'. `--source_field` "
        "names another one.\n"
    )


def test_an_unreadable_file_of_prompts_is_refused(refused, tmp_path):
    refused("No such file or folder: nowhere.jsonl", "--prompts", "nowhere.jsonl")
    refused("is not a folder written by `datasets`", "--prompts", tmp_path)
    (tmp_path / "prompts.csv").write_text("a")
    refused("unknown kind of file", "--prompts", tmp_path / "prompts.csv")
    (tmp_path / "prompts.jsonl.gz").write_bytes(b"\x1f\x8b cut")
    refused("prompts.jsonl.gz", "--prompts", tmp_path / "prompts.jsonl.gz")
    (tmp_path / "memory.jsonl").symlink_to("/proc/self/mem")
    refused("Input/output error", "--prompts", tmp_path / "memory.jsonl")


def test_a_long_prompt_is_refused_before_anything_is_written(
    refused, write_prompts, generate, toy_tokenizer
):
    prompt = "a pub " * 20
    length = len(toy_tokenizer(prompt)["input_ids"])
    path = write_prompts('{"source": "a"}', json.dumps({"source": prompt}))
    message = f"line 2: the prompt has {length} tokens, the model takes at most 23: shorten it"
    refused(message, "--prompts", path, "--batch_size", 1)
    assert generate("--prompts", path, "--truncate")[0] == 0
    assert generate("--prompts", path, "--truncate", "true")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_inference_steps", 0], "`num_inference_steps` must be between 1 and 1000, got 0."),
        (
            ["--num_inference_steps", -1],
            "`num_inference_steps` must be between 1 and 1000, got -1.",
        ),
        (["--batch_size", 0], "`--batch_size` must be at least 1, got 0."),
        (["--num_samples", 0], "`--num_samples` must be at least 1, got 0."),
        (["--seed", -1], "`--seed` must be at least 0, got -1."),
        (["--guidance_scale", ".inf"], "`guidance_scale` must be a finite number, got inf."),
        (["--pipeline", "nowhere"], "There is no pipeline folder `nowhere`"),
        (["--output", "nowhere/out.jsonl"], "`--output`: there is no folder `nowhere`"),
        (["--output", "/dev/full"], "`--output`: `/dev/full` is no regular file"),
    ],
)
def test_a_wrong_option_is_refused(refused, options, message):
    refused(message, *options)


def test_a_damaged_pipeline_is_refused(refused, pipeline_folder):
    path = pipeline_folder / "denoiser" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused("is not a safetensors file, or is cut", "--seed", 0)


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
    generate, prompts, fail_at_second_chunk, monkeypatch, tmp_path, error, code, message
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


def test_a_new_run_replaces_what_an_earlier_one_left(generate, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    output.write_text("old\n")
    partial.write_text("left over\n")
    assert generate("--output", output)[0] == 0
    assert [row["id"] for row in read_lines(output)] == [0]
    assert not partial.exists()


# Jobs


def test_rejected_prompts_give_an_exit_code_of_their_own(generate, write_prompts, tmp_path):
    path = write_prompts('{"source": "a"}', "{", json.dumps({"source": "a pub " * 20}))
    output = tmp_path / "out.jsonl"
    code, printed, error = generate("--prompts", path, "--output", output, "--on_error", "reject")
    assert (code, error) == (3, "")
    assert printed.endswith(
        f"written to {output}; 2 prompts rejected, see {output}.rejects.jsonl\n"
    )
    rejects = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert [(row["id"], row["line"]) for row in rejects] == [(1, 2), (2, 3)]
    assert rejects[1]["reason"].startswith("the prompt has ")


def test_standard_input_and_output_make_a_pipe(generate, rows_of, monkeypatch):
    lines = "".join(json.dumps({"source": prompt}) + "\n" for prompt in PROMPTS[:2])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    code, printed, error = generate("--prompts", "-", "--output", "-")
    assert code == 0
    assert [json.loads(line) for line in printed.splitlines()] == [
        asdict(row) for row in rows_of(PROMPTS[:2])
    ]
    assert error.startswith("2 texts, ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"name[The Mill]\n")))
    options = ["--prompts", "-", "--prompts_format", "txt", "--output", "-"]
    assert json.loads(generate(*options)[1])["text"] == texts(rows_of(PROMPTS[:1]))[0]


def test_columns_and_shards_by_the_command(generate, write_prompts, rows_of, tmp_path):
    path = write_prompts(*(json.dumps({"source": "a", "city": n}) for n in range(3)))
    for part in (1, 2):
        options = ["--prompts", path, "--columns", "[city]", "--shard", f"{part}/2"]
        assert generate(*options, "--output", tmp_path / f"{part}.jsonl")[0] == 0
    rows = [row for part in (1, 2) for row in read_lines(tmp_path / f"{part}.jsonl")]
    expected = [asdict(row) for row in rows_of(["a"] * 3)]
    assert rows == [row | {"city": n} for n, row in enumerate(expected)]


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
