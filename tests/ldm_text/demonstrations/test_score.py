import json

import pytest

from ldm_text.demonstrations.score import score_task

ROWS = [
    ("3 fruits from fig to pear", "fig, lime, pear", 3),
    ("3 tools from axe to saw", "axe, hoe, saw", 3),
    ("5 fruits from fig to pear", "fig, lime, plum, kiwi, pear", 5),
]


@pytest.fixture
def write(tmp_path):
    def run(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return run


@pytest.fixture
def data(write):
    rows = [dict(zip(("source", "target", "num_items"), row, strict=True)) for row in ROWS]
    return str(write("data.jsonl", rows))


def test_rates_are_those_of_the_groups(main, write, data, tmp_path):
    texts = [ROWS[0][1], "axe, saw", ROWS[2][1]]
    path = write(
        "texts.jsonl",
        [{"source": row[0], "text": text} for row, text in zip(ROWS, texts, strict=True)],
    )
    options = ["--task", "lists", "--data", data, "--texts", path]
    code, printed, error = main("score_task", *options, "--output", tmp_path / "report.json")
    assert (code, error) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    rates = {name: group["checks"]["correct"]["rate"] for name, group in report["groups"].items()}
    assert rates == {"all": pytest.approx(2 / 3), "3": 0.5, "5": 1.0}
    assert report["groups"]["3"]["checks"]["number"]["rate"] == 0.5
    assert report["groups"]["3"]["checks"]["last"]["rate"] == 1.0
    assert report["groups"]["3"]["num_sources"] == 2
    assert set(report["targets"].values()) == {1.0}
    assert [row["correct"] for row in report["examples"]] == [True, False, True]
    lines = printed.splitlines()
    assert lines[0].split()[:3] == ["num_items", "sources", "correct"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["all", "3", "66.7"],
        ["3", "2", "50.0"],
        ["5", "1", "100.0"],
    ]


def test_samples_of_a_source_are_averaged_first(write, data, tmp_path):
    """Two samples of one source are no two independent rows."""
    rows = [{"source": row[0], "text": text} for row in ROWS for text in (row[1], "x")]
    score_task("lists", data, write("texts.jsonl", rows), tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    figures = report["groups"]["all"]["checks"]["correct"]
    assert (figures["rate"], figures["standard_error"]) == (0.5, 0.0)
    assert report["texts"]["num_samples"] == 2


def test_one_source_with_several_targets_takes_any_of_them(write, tmp_path):
    rows = [{"source": "list", "target": text, "platform": "linux"} for text in ("ls", "dir")]
    texts = write("texts.jsonl", [{"source": "list", "text": "dir"}])
    score_task("tldr_commands", str(write("d.jsonl", rows)), texts, tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["groups"]["linux"]["checks"]["correct"]["rate"] == 1.0


def test_what_cannot_be_scored_is_refused(write, data, tmp_path):
    output = tmp_path / "report.json"
    texts = write("texts.jsonl", [{"source": ROWS[0][0], "text": "x"}])
    with pytest.raises(ValueError, match="`--texts`: 2 of 3 sources have no text"):
        score_task("lists", data, texts, output)
    with pytest.raises(ValueError, match="`--max_rows` must be at least 1, got 0"):
        score_task("lists", data, texts, output, max_rows=0)
    score_task("lists", data, texts, output, max_rows=1)
    no_group = str(write("d.jsonl", [{"source": "a", "target": "b"}]))
    with pytest.raises(ValueError, match=r"`--data`: .*, line 1: no field `num_items`"):
        score_task("lists", no_group, texts, output)
