import json

import pytest

from ldm_text.batch.job import run_job
from ldm_text.batch.options import JobOptions
from ldm_text.batch.texts import TextWorkOptions
from ldm_text.control.near import interpolate, variations
from ldm_text.control.refine import refine
from ldm_text.control.verb_work import VerbWorkOptions
from ldm_text.control.verbs import Variations
from ldm_text.generated_rows import TextSettings
from ldm_text.pipeline import LatentTextPipeline

COMMON = ["--num_inference_steps", 3, "--precision", "float32"]
SETTINGS = TextSettings(num_inference_steps=3, precision="float32")
TEXT, OTHER = "The Vaults is cheap.", "It is a pub."


@pytest.fixture
def run(main, pipeline_folder):
    """Run a command on the toy pipeline; return its output, and fail unless the code is 0."""

    def call(command, *arguments):
        code, out, err = main(command, "--pipeline", pipeline_folder, *COMMON, *arguments)
        assert code == 0, err
        return out

    return call


@pytest.fixture
def loaded(pipeline_folder):
    return LatentTextPipeline.from_pretrained(pipeline_folder)


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"text": TEXT, "first": TEXT, "last": OTHER, "mr": "name[The Mill]", "city": "Rome"},
        {"text": OTHER, "first": OTHER, "last": TEXT, "mr": "", "city": "Oslo"},
        {"text": TEXT, "first": TEXT, "last": OTHER, "mr": "name[The Mill]", "city": "Bern"},
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_variations_are_printed_with_their_distances(run, loaded):
    out = run("variations", "--text", TEXT, "--n", 3, "--distance", 0.3)
    expected = variations(loaded, TEXT, 3, 0.3, settings=SETTINGS)
    lines = "".join(f"  {each.changed:.2f}  {each.text}\n" for each in expected)
    assert out.startswith(f"{TEXT}\n{lines}")


def test_the_samples_of_a_row_are_made_once_in_batches_of_any_size(pipeline_folder, tmp_path):
    """Each batch made all of them again."""
    prompts = tmp_path / "in.txt"
    prompts.write_text(f"{TEXT}\n{OTHER}\n{TEXT}\n")
    text_work = TextWorkOptions(pipeline_folder, SETTINGS)
    outputs, calls = [], []
    for batch_size in (64, 2, 1):
        work = VerbWorkOptions(text_work, Variations(4, 0.3), None, ("text",)).load()
        called = []
        work.pipeline.denoiser.register_forward_pre_hook(lambda *_, to=called: to.append(None))
        output = tmp_path / f"{batch_size}.jsonl"
        run_job(work, JobOptions(prompts, output, batch_size=batch_size))
        outputs.append(output.read_text())
        calls.append(len(called))
    assert calls == [calls[0]] * 3
    assert outputs == [outputs[0]] * 3


def test_an_interpolation_is_printed_from_end_to_end(run, loaded):
    out = run("interpolate", "--first", TEXT, "--last", OTHER, "--n", 4)
    expected = interpolate(loaded, TEXT, OTHER, 4, settings=SETTINGS)
    assert out.startswith(f"{TEXT}\n  0.00  {TEXT}\n")
    assert all(f"  {each.changed:.2f}  {each.text}\n" in out for each in expected)


def test_a_refined_text_is_printed_below_the_text(run, loaded):
    options = ["--num_rounds", 2, "--share", 0.5, "--strength", 1, "--source", "name[The Mill]"]
    out = run("refine", "--text", TEXT, *options)
    options = {"num_rounds": 2, "share": 0.5, "strength": 1.0, "source": "name[The Mill]"}
    refined = refine(loaded, TEXT, settings=SETTINGS, **options)
    assert out.startswith(f"{TEXT}\n  -> {refined.text}\n")


OPTIONS = {
    "variations": ["--n", 3, "--distance", 0.5],
    "interpolate": ["--n", 3],
    "refine": ["--num_rounds", 2, "--share", 0.5, "--strength", 1],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_files_become_files_however_they_are_cut(run, prompts, tmp_path, command):
    """Records do not depend on the batch, on the other rows, or on where a job was broken off."""
    common = [*OPTIONS[command], "--prompts", prompts, "--source_field", "mr"]
    common += ["--columns", "[city]"]
    found = []
    for number, options in enumerate((["--batch_size", 1], ["--batch_size", 64])):
        output = tmp_path / f"{number}.jsonl"
        run(command, *common, "--output", output, *options)
        found.append(read_lines(output))
    assert found[0] == found[1]
    parts = []
    for shard in ("1/2", "2/2"):
        output = tmp_path / "part.jsonl"
        run(command, *common, "--output", output, "--shard", shard, "--start_over")
        parts += read_lines(output)
    assert parts == found[0]
    each = 1 if command == "refine" else 3
    assert [row["id"] for row in found[0]] == [id for id in range(3) for _ in range(each)]
    assert [row["sample"] for row in found[0]] == [*range(each)] * 3
    assert [row["city"] for row in found[0][::each]] == ["Rome", "Oslo", "Bern"]
    assert found[0][0]["source"] == "name[The Mill]"


def test_records_tell_what_was_made_of_what(run, prompts, loaded, tmp_path):
    output = tmp_path / "out.jsonl"
    run("variations", *OPTIONS["variations"], "--prompts", prompts, "--output", output)
    rows = read_lines(output)
    expected = variations(loaded, OTHER, 3, 0.5, settings=SETTINGS, row=1)
    assert [row["text"] for row in rows[3:6]] == [each.text for each in expected]
    assert [row["changed"] for row in rows[3:6]] == [round(each.changed, 4) for each in expected]
    assert {(row["original"], row["distance"]) for row in rows[3:6]} == {(OTHER, 0.5)}
    # The same text in another row has noise of its own.
    assert [row["text"] for row in rows[:3]] != [row["text"] for row in rows[6:]]

    run("interpolate", "--prompts", prompts, "--output", output, "--start_over", "--n", 3)
    rows = read_lines(output)
    assert [row["position"] for row in rows[:3]] == [0, 0.5, 1]
    assert (rows[0]["text"], rows[2]["text"]) == (rows[0]["first"], rows[0]["last"])

    run("refine", *OPTIONS["refine"], "--prompts", prompts, "--output", output, "--start_over")
    for row in read_lines(output):
        assert row["score"] >= row["score_before"]
        assert bool(row["num_changes"]) == (row["text"] != row["original"])


def test_rows_that_the_model_cannot_take_go_to_the_rejects(main, pipeline_folder, tmp_path):
    prompts, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    prompts.write_text(f"{TEXT}\n{'x' * 40}\n")
    arguments = ["refine", "--pipeline", pipeline_folder, *COMMON, "--prompts", prompts]
    code, _, _ = main(*arguments, "--output", output, "--on_error", "reject")
    assert code == 3
    assert [row["original"] for row in read_lines(output)] == [TEXT]
    (reject,) = read_lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert "has 40 tokens" in reject["reason"]


def test_the_noise_of_row_0_is_that_of_a_single_text(loaded):
    for call in (
        lambda **row: variations(loaded, TEXT, 2, 0.5, settings=SETTINGS, **row),
        lambda **row: interpolate(loaded, TEXT, OTHER, 4, settings=SETTINGS, strength=1.0, **row),
    ):
        assert call() == call(row=0) != call(row=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["variations", "--text", "a", "--distance", 0], "`distance` must be above 0"),
        (["variations", "--text", "a", "--distance", 0.5, "--n", 0], "`n` must be at least 1"),
        (["variations", "--distance", 0.5], "Give `--text`, or a file of them by `--prompts`"),
        (["interpolate", "--first", "a", "--last", "b", "--n", 1], "`n` must be at least 2"),
        (["variations", "--text", "a", "--distance", 0.5, "--seed", -1], "`--seed` must be at"),
        (["interpolate", "--first", "a", "--last", "b", "--seed", -1], "`--seed` must be at"),
        (["refine", "--text", "a", "--seed", -1], "`--seed` must be at least 0, got -1."),
        (["interpolate", "--first", "a"], "Give `--last`, or a file of them by `--prompts`"),
        (["interpolate", "--first", "a", "--last", "b", "--strength", 2], "`strength` must be"),
        (["interpolate", "--first", "a", "--last", ""], "has 0 tokens, the model changes texts of"),
        (["refine", "--text", "a", "--share", 0], "`share` must be above 0"),
        (["refine", "--text", "a", "--num_rounds", 0], "`num_rounds` must be at least 1, got 0"),
        (["refine", "--text", "x" * 40], "has 40 tokens"),
        (["refine", "--prompts", "x.txt", "--source", "a"], "`--source` goes with `--text`"),
        (["refine", "--text", "a", "--source", "x" * 40], "the model takes at most 23"),
    ],
)
def test_impossible_commands_are_refused_in_one_line(main, pipeline_folder, arguments, message):
    code, out, err = main(arguments[0], "--pipeline", pipeline_folder, *COMMON, *arguments[1:])
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
