"""What ``ldm-text generate`` refuses: in one line, and before anything is written."""

import json

import pytest


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
        (["--sampling", "{clamp_start: abc}"], "`clamp_start` must be a number, got 'abc'."),
        (["--sampling.self_correction", "[1]"], "`self_correction` must be a number, got [1]."),
        (["--sampling.clamp_start", "true"], "`clamp_start` must be a number, got True."),
        (
            ["--sampling", "{stop_patience: 1, stop_confidence: abc}"],
            "`stop_confidence` must be a number, got 'abc'.",
        ),
        (["--scheduler", "flow_map"], "`--scheduler flow_map` needs a student of FlowMapDistil"),
        (["--control.trace", "nowhere/a.html"], "`--control.trace`: there is no folder `nowhere`"),
        (["--control.trace", "a.html", "--devices", 2], "`--control.trace` shows one text"),
        (["--seed", 2**32], "`--seed` must be below 4294967296 (2**32), got 4294967296."),
        (
            ["--control.choose_by", "agreement"],
            "`--control.choose_by agreement` has no effect: there is one candidate of each text",
        ),
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
