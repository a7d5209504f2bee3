import json

import pytest

from ldm_text.data.corpus import Corpus
from ldm_text.data.labels import LabelField


@pytest.fixture
def parts(tmp_path):
    """Four records of one data set and two of another, with other fields."""
    for name, size, fields in (("long", 4, {}), ("short", 2, {"levels": "hard to easy"})):
        rows = [{"source": f"{name} {n}", "target": f"{n}"} | fields for n in range(size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: tmp_path / f"{name}.jsonl" for name in ("long", "short")}


@pytest.fixture
def label_records(main, parts, tmp_path):
    def run(*options, **data):
        named = [(f"--data.{label}", path) for label, path in (data or parts).items()]
        words = [word for pair in named for word in pair]
        output = tmp_path / "joined.jsonl"
        return main("label_records", *words, "--output", output, *options), output

    return run


def test_parts_are_spread_over_the_file_with_their_labels(label_records):
    (code, _, error), output = label_records()
    assert code == 0, error
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["source"] for row in rows] == [
        *("long 0", "short 0", "long 1", "long 2", "short 1", "long 3")
    ]
    assert rows[1] == {
        **{"source": "short 0", "target": "0", "levels": "hard to easy", "task": "short"}
    }


def test_a_corpus_reads_the_label_as_the_first_line_of_the_source(label_records):
    result, output = label_records("--max_rows", 1, "--label_field", "kind")
    assert result[0] == 0
    labels = LabelField("task", "kind", ["long", "short"])
    corpus = Corpus(str(output), text_field="target", source_field="source", labels=labels)
    records = [*corpus.train_records(), *corpus.validation_records()]
    assert {record.source for record in records} == {"task: long\nlong 0", "task: short\nshort 0"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label_field", "target"], "line 1: there is a field `target` already"),
        (["--max_rows", 0], "`--max_rows` must be at least 1, got 0."),
        (["--data.short", "nowhere.jsonl"], "No such file or folder: nowhere.jsonl."),
    ],
)
def test_what_cannot_be_joined_is_one_line(label_records, options, message):
    (code, printed, error), output = label_records(*options)
    assert (code, printed) == (2, "")
    assert message in error
    assert not output.exists()


def test_one_part_alone_needs_no_label(label_records, parts):
    (code, _, error), _ = label_records(long=parts["long"])
    assert (code, error.count("\n")) == (2, 1)
    assert "`--data` must name at least two parts, got ['long']." in error
