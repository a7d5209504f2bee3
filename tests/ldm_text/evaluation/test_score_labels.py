import json
import random

import pytest

from ldm_text.evaluation.score_labels import read_labelled, score_labels

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra `evaluate`)")

WORDS = {"tea": ["cup", "leaf", "steam", "pot"], "sea": ["wave", "fish", "sand", "boat"]}


def sentences(name, number, seed):
    numbers = random.Random(f"{name} {seed}")
    return [" ".join(numbers.choices(WORDS[name], k=4)) + f" {seed} {n}" for n in range(number)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path):
    """Write training and validation data of two classes and return their paths."""
    return [
        str(
            write(
                tmp_path / f"{seed}.jsonl",
                [
                    {"text": text, "class": name}
                    for name in WORDS
                    for text in sentences(name, 40, seed)
                ],
            )
        )
        for seed in (1, 2)
    ]


def test_shares_of_the_classes_are_those_of_the_texts(data, tmp_path, capsys):
    texts = sentences("tea", 15, 3) + sentences("sea", 5, 3)
    mixed = write(tmp_path / "mixed.jsonl", [{"text": text} for text in texts])
    output = tmp_path / "report.json"
    score_labels({"mixed": mixed}, data[1], data[0], output, label_field="class")
    report = json.loads(output.read_text())
    assert report["shares"]["mixed"]["tea"]["mean"] == 0.75
    assert report["shares"]["mixed"]["sea"]["mean"] == 0.25
    # Of 15 ones and 5 noughts: the square root of 0.75 * 0.25 / 19.
    assert report["shares"]["mixed"]["tea"]["standard_error"] == pytest.approx(0.0993, abs=1e-4)
    assert report["shares"]["data: sea"]["sea"]["mean"] == 1
    assert report["classifier"]["accuracy"] == 1
    assert report["num_texts"] == {"mixed": 20}
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["sea", "tea"]
    assert table[1].split() == ["mixed", "25.0", "+-", "9.9", "75.0", "+-", "9.9"]


def test_a_classifier_that_knows_all_texts_has_no_accuracy(data, tmp_path):
    """It was asked about no text at all, which it refuses."""
    texts = write(tmp_path / "texts.jsonl", [{"text": "cup pot"}])
    output = tmp_path / "report.json"
    score_labels({"own": texts}, data[0], data[0], output, label_field="class")
    report = json.loads(output.read_text())
    assert report["classifier"]["accuracy"] is None
    assert report["classifier"]["num_texts"] == 0
    assert list(report["shares"]) == ["own"]


def test_classes_that_fields_tell_leave_out_what_is_of_both(tmp_path):
    rows = [{"new": "a b", "old": "c d"}, {"new": "same", "old": "same"}]
    path = write(tmp_path / "pairs.jsonl", rows)
    found = read_labelled("--data", str(path), "text", None, {"low": "new", "high": "old"})
    assert sorted(found) == [("a b", "low"), ("c d", "high")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give one of"),
        ({"label_field": "class", "text_fields": {"a": "text"}}, "Give one of"),
        ({"label_field": "kind"}, "no field `kind`"),
        ({"text_fields": {"one": "text"}}, "no texts of two classes"),
        ({"texts": {}}, "`--texts` must name"),
        ({"texts": {False: "a.jsonl"}, "label_field": "class"}, "in quotes"),
        ({"texts": {"x": "missing.jsonl"}, "label_field": "class"}, "`x`"),
    ],
)
def test_what_cannot_be_scored_is_refused(data, tmp_path, options, message):
    texts = write(tmp_path / "texts.jsonl", [{"text": "cup"}])
    options = {"texts": {"own": texts}} | options
    with pytest.raises(ValueError, match=message):
        score_labels(data=data[1], training_data=data[0], output=tmp_path / "o.json", **options)
