import json

import pytest

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.references import (
    cut_long_texts,
    group_by_source,
    read_option,
    read_text_sets,
)

CONDITIONAL = [TextRecord("a", "x", ("a",)), TextRecord("b", "y", ("b",))]
UNCONDITIONAL = [TextRecord("a"), TextRecord("b")]


@pytest.fixture
def write(tmp_path):
    def make(*rows):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return make


def row(text, source=None, **others):
    return {"text": text, "source": source} | others


def test_records_of_one_source_are_joined_with_all_references():
    records = [TextRecord("a", "x"), TextRecord("b", "y", ("c", "d")), TextRecord("e", "x")]
    assert group_by_source(records) == [
        TextRecord("a", "x", ("a", "e")),
        TextRecord("c", "y", ("c", "d")),
    ]


def test_records_without_sources_stay_apart():
    assert group_by_source([TextRecord("a"), TextRecord("a")]) == [TextRecord("a")] * 2


@pytest.mark.parametrize(
    ("others", "field", "expected"),
    [
        ({}, "auto", ("a", "b")),
        ({"references": ["c", "d"]}, "auto", ("c", "d", "c", "d")),
        ({"references": ["c", "d"]}, None, ("a", "b")),
        ({"all": ["e"]}, "all", ("e", "e")),
    ],
)
def test_references_are_read_where_there_are_any(write, others, field, expected):
    """Data with sources and targets, as the README describes them, were refused."""
    path = write({"source": "x", "text": "a"} | others, {"source": "x", "text": "b"} | others)
    records = read_option("--data", path, field, text_field="text", source_field="source")
    (joined,) = group_by_source(records)
    assert joined.references == expected


def test_a_field_of_references_that_is_named_must_be_there(write):
    path = write({"source": "x", "text": "a"})
    with pytest.raises(ValueError, match=r"`--data`: .* `refs`, which `--references_field` names"):
        read_option("--data", path, "refs", source_field="source")


def test_rows_are_matched_by_source_whatever_their_order(write):
    path = write(row("of y", "y"), row("of z", "z"), row("of x", "x"))
    assert read_text_sets(path, CONDITIONAL) == [["of x", "of y"]]


def test_further_rows_of_a_source_make_further_sets(write):
    path = write(row("x1", "x"), row("x2", "x"), row("y1", "y"), row("y2", "y"), row("x3", "x"))
    assert read_text_sets(path, CONDITIONAL) == [["x1", "y1"], ["x2", "y2"]]


def test_without_sources_each_seed_makes_a_set(write):
    path = write(row("a", seed=0), row("b", seed=0), row("c", seed=1))
    assert read_text_sets(path, UNCONDITIONAL) == [["a", "b"], ["c"]]
    assert read_text_sets(write({"text": "a"}, {"text": "b"}), UNCONDITIONAL) == [["a", "b"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "x")], "`--texts`: 1 of 2 sources have no text; the first is 'y'"),
        ([{"source": "x"}], "`--texts`: .* line 1: each row needs `source` and `text` as strings"),
        ([{"text": "a"}], "each row needs `source` and `text` as strings"),
    ],
)
def test_a_file_that_does_not_do_is_refused(write, rows, message):
    with pytest.raises(ValueError, match=message):
        read_text_sets(write(*rows), CONDITIONAL)


def test_long_texts_become_windows_of_the_models_length(toy_tokenizer):
    text = "The Punter is a coffee shop near the river. It is cheap."
    num_tokens = len(toy_tokenizer(text)["input_ids"])
    windows = cut_long_texts([TextRecord(text), TextRecord("a")], "split", toy_tokenizer, 9)
    assert len(windows) == -(-num_tokens // 8) + 1
    assert "".join(window.text for window in windows) == text + "a"
    assert all(len(toy_tokenizer(window.text)["input_ids"]) <= 8 for window in windows)
    (first,) = cut_long_texts([TextRecord(text)], "truncate", toy_tokenizer, 9)
    assert first == windows[0]
    assert cut_long_texts([TextRecord(text)], "drop", toy_tokenizer, 9) == []
