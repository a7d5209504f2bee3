import json
import re

import pytest

COMMON = ["--num_inference_steps", 3, "--precision", "float32"]


@pytest.fixture
def run(main, pipeline_folder):
    """Run a command on the toy pipeline; return its output, and fail unless the code is 0."""

    def call(command, *arguments):
        code, out, err = main(command, "--pipeline", pipeline_folder, *COMMON, *arguments)
        assert code == 0, err
        return out

    return call


@pytest.fixture
def refused(main, pipeline_folder):
    """Run a command that must be refused; return its one line."""

    def call(command, *arguments):
        code, _, err = main(command, "--pipeline", pipeline_folder, *COMMON, *arguments)
        assert code == 2
        assert err.count("\n") == 1
        return err

    return call


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_template_is_filled_and_printed(run):
    out = run("infill", "--template", "The [MASK:2] is", "--source", "name[The Mill]")
    assert re.search(r"The \[MASK:2\] is\n  -> The .+ is\n", out, re.DOTALL)


def test_a_file_of_templates_becomes_a_file_of_texts(run, tmp_path):
    rows = [
        {"template": "The [MASK:2].", "mr": "name[The Mill]"},
        {"template": "A [MASK:1-2] b", "mr": ""},
    ]
    prompts, output = write_lines(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    run(
        "infill",
        "--prompts",
        prompts,
        "--output",
        output,
        "--source_field",
        "mr",
        "--columns",
        "[mr]",
        "--num_samples",
        2,
    )
    records = read_lines(output)
    assert [(row["id"], row["sample"]) for row in records] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["template"] for row in records[::2]] == [row["template"] for row in rows]
    assert all(row["text"].startswith("The ") for row in records[:2])
    assert [row["num_candidates"] for row in records] == [1, 1, 2, 2]
    assert records[0]["mr"] == "name[The Mill]"


def test_impossible_rows_go_to_the_rejects(main, pipeline_folder, tmp_path):
    prompts = write_lines(
        tmp_path / "in.jsonl", {"template": "The [MASK:99]"}, {"template": "A [MASK:1]"}
    )
    output = tmp_path / "out.jsonl"
    arguments = ["infill", "--pipeline", pipeline_folder, *COMMON, "--prompts", prompts]
    code, _, _ = main(*arguments, "--output", output, "--on_error", "reject")
    assert code == 3
    assert len(read_lines(output)) == 1
    (reject,) = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert "need at least" in json.dumps(reject)


def test_a_row_that_no_candidate_satisfies_goes_to_the_rejects(main, pipeline_folder, tmp_path):
    """It ended the job, and again whenever the job was to go on."""
    prompts = write_lines(
        tmp_path / "in.jsonl",
        {"source": "a", "begin": "The"},
        {"source": "b", "begin": "It"},
        {"source": "c", "begin": "The"},
    )
    output = tmp_path / "out.jsonl"
    arguments = ["generate", "--pipeline", pipeline_folder, *COMMON, "--prompts", prompts]
    arguments += ["--output", output, "--control.prefix_field", "begin"]
    arguments += ["--control.required_patterns", "['^The']"]
    code, _, error = main(*arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert "in.jsonl, line 2: None of 1 candidates of row 1 satisfies the constraints" in error
    code, printed, error = main(*arguments, "--on_error", "reject")
    assert (code, error) == (3, "")
    assert "; 1 rejected, see " in printed
    assert [row["id"] for row in read_lines(output)] == [0, 2]
    (reject,) = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert reject["reason"].startswith("None of 1 candidates of row 1 satisfies the constraints")
    assert (reject["id"], reject["line"], reject["sample"]) == (1, 2, 0)


def test_a_text_is_edited_as_strongly_as_wanted(run, tmp_path):
    text = "The Vaults is cheap."
    assert f"{text}\n  -> {text}\n" in run("edit", "--text", text, "--strength", 0)
    prompts = tmp_path / "in.txt"
    prompts.write_text(f"{text}\nIt is a pub.\n")
    output = tmp_path / "out.jsonl"
    run("edit", "--prompts", prompts, "--strength", 1, "--output", output)
    records = read_lines(output)
    assert [row["original"] for row in records] == [text, "It is a pub."]
    assert all(row["changed"] > 0 and row["strength"] == 1 for row in records)
    out = run("edit", "--text", text, "--strength", 1, "--protect", "[Vaults]")
    assert " Vaults" in out.split("->")[1]


def test_generate_takes_known_text_lengths_and_constraints(run, tmp_path):
    output = tmp_path / "out.jsonl"
    run(
        "generate",
        "--output",
        output,
        "--num_samples",
        3,
        "--control.prefix",
        "The Mill",
        "--control.length_tokens",
        12,
        "--control.required",
        "[cheap]",
    )
    for row in read_lines(output):
        assert row["text"].startswith("The Mill")
        assert re.search(r"\bcheap\b", row["text"])
        assert row["num_tokens"] == 12


def test_rows_may_have_their_own_known_text_and_length(run, tmp_path):
    rows = [
        {"source": "a", "begin": "The", "stop": " pub", "size": 9},
        {"source": "b", "begin": "", "stop": "", "size": [4, 5]},
        {"source": "c", "begin": "It", "stop": "", "size": None},
    ]
    prompts, output = write_lines(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    run(
        "generate",
        "--prompts",
        prompts,
        "--output",
        output,
        "--control.prefix_field",
        "begin",
        "--control.suffix_field",
        "stop",
        "--control.length_field",
        "size",
    )
    first, second, third = read_lines(output)
    assert first["text"].startswith("The")
    assert first["text"].endswith(" pub")
    assert first["num_tokens"] == 9
    assert second["num_tokens"] in (4, 5)
    assert third["text"].startswith("It")


def test_control_that_asks_for_nothing_changes_no_text(run, tmp_path):
    plain, controlled = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    prompts = write_lines(tmp_path / "in.jsonl", {"source": "name[The Mill]"}, {"source": ""})
    run("generate", "--prompts", prompts, "--output", plain)
    run("generate", "--prompts", prompts, "--output", controlled, "--control.num_candidates", 1)
    assert [row["text"] for row in read_lines(plain)] == [
        row["text"] for row in read_lines(controlled)
    ]


def test_guiders_are_chosen_by_name(run, pipeline_folder, tmp_path):
    prompts = write_lines(tmp_path / "in.jsonl", *({"source": f"name[{i}]"} for i in range(6)))

    def texts(*arguments):
        output = tmp_path / "out.jsonl"
        run("generate", "--prompts", prompts, "--output", output, "--start_over", *arguments)
        return tuple(row["text"] for row in read_lines(output))

    plain = texts()
    constant = texts("--control.guider", "constant")
    interval = texts("--control.guider", "interval", "--control.guider_start", 0.4)
    projected = texts("--control.guider", "projected")
    itself = texts("--control.guider", "autoguidance", "--control.weak_pipeline", pipeline_folder)
    assert constant == plain
    assert len({constant, interval, projected}) == 3
    assert itself == texts("--guidance_scale", 1)  # no weaker than itself: nothing to guide from


def test_a_trace_is_written_beside_the_texts(run, tmp_path):
    out = run("generate", "--control.trace", tmp_path / "trace.html")
    assert out
    assert "default-src 'none'" in (tmp_path / "trace.html").read_text()


@pytest.mark.parametrize("options", [["--shard", "2/2"], ["--on_error", "reject"]])
def test_a_trace_shows_the_first_text_of_this_run(main, pipeline_folder, tmp_path, options):
    """Where that was not the first of all rows, no page was written."""
    sources = ["x" * 99, "b", "cc", "ddd"] if "reject" in options else ["a", "b", "cc", "ddd"]
    prompts = write_lines(tmp_path / "in.jsonl", *({"source": source} for source in sources))
    arguments = ["generate", "--pipeline", pipeline_folder, *COMMON, "--prompts", prompts]
    arguments += ["--output", tmp_path / "out.jsonl", "--batch_size", 1, *options]
    code, _, error = main(*arguments, "--control.trace", tmp_path / "trace.html")
    assert (code, error) == (3 if "reject" in options else 0, "")
    first = read_lines(tmp_path / "out.jsonl")[0]["source"]
    assert first == ("b" if "reject" in options else "cc")
    assert f"<p>{first}</p>" in (tmp_path / "trace.html").read_text()


def test_agreement_may_choose_among_lengths(run, tmp_path):
    out = run("infill", "--template", "The [MASK] is", "--control.choose_by", "agreement")
    assert out.startswith("The [MASK] is\n  -> The ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infill"], "Give `--template`, or a file of them by `--prompts`"),
        (["infill", "--template", "[MASK]"], "There is no text around the gap"),
        (["infill", "--template", "a [MASK:99]"], "need at least"),
        (["infill", "--template", "a [MASK]", "--control.prefix", "a"], "a template says what is"),
        (
            ["infill", "--template", "a [MASK:3] b", "--control.choose_by", "agreement"],
            "`--control.choose_by agreement` has no effect: there is one candidate of each text.",
        ),
        (["edit", "--text", "a", "--strength", 2], "`strength` must be between 0 and 1, got 2"),
        (["edit", "--strength", 0.5], "Give `--text`, or a file of them by `--prompts`"),
        (["infill", "--template", "a [MASK]", "--num_samples", 0], "`--num_samples` must be at"),
        (["infill", "--prompts", "-", "--num_samples", 0], "`--num_samples` must be at least 1"),
        (["edit", "--text", "a", "--strength", 1, "--num_samples", -2], "at least 1, got -2."),
        (["infill", "--template", "a [MASK]", "--seed", -1], "`--seed` must be at least 0, got -1"),
        (["edit", "--text", "a", "--strength", 1, "--seed", -1], "`--seed` must be at least 0"),
        (["edit", "--text", "a b", "--strength", 1, "--protect", "[pub]"], "'pub' does not stand"),
        (["generate", "--control.length_tokens", 99], "asks for 99 tokens"),
        (["generate", "--control.required_patterns", "['(']"], "is no regular expression"),
        (
            ["generate", "--control.required", "[pub]", "--control.forbidden", "[pub]"],
            "contradicts",
        ),
        (["generate", "--control.guider", "luck"], "guider"),
        (["generate", "--control.guider_start", 0.5], "have no effect without `guider`"),
        (["generate", "--control.guider", "autoguidance"], "needs a weaker denoiser"),
    ],
)
def test_impossible_commands_are_refused_in_one_line(refused, arguments, message):
    assert message in refused(*arguments)


def test_a_weaker_pipeline_of_other_latents_is_refused(refused, make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "other")
    message = refused(
        "generate",
        "--control.guider",
        "autoguidance",
        "--control.weak_pipeline",
        tmp_path / "other",
    )
    assert "has another autoencoder" in message
