import json

import pytest

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.evaluate import group_by_source, measure_reconstruction
from ldm_text.evaluation.metrics import corpus_bleu


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
        "references_field": "null",
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


def test_records_of_one_source_are_joined_with_all_references():
    records = [TextRecord("a", "x"), TextRecord("b", "y", ("c", "d")), TextRecord("e", "x")]
    assert group_by_source(records) == [
        TextRecord("a", "x", ("a", "e")),
        TextRecord("c", "y", ("c", "d")),
    ]


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
        ({"num_inference_steps": "[]"}, "`--num_inference_steps` must hold at least one number"),
        ({"num_inference_steps": "[4, 0]"}, "`num_inference_steps` must be between 1 and 1000"),
        ({"schedulers": "[ddim]"}, "expected one of 'euler', "),
        ({"num_distinct_samples": 0}, "`num_samples` must be at least 1, got 0."),
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
