import pytest

from ldm_text.data.corpus import Corpus
from ldm_text.data.labels import LabelField


def texts(records):
    return [record.text for record in records]


def rows(count):
    return [{"text": f"text {number}"} for number in range(count)]


def test_hold_out_is_disjoint_complete_and_close_to_the_asked_share(write_jsonl):
    corpus = Corpus(str(write_jsonl(rows(2000))), validation_fraction=0.1)
    train, held_out = texts(corpus.train_records()), texts(corpus.validation_records())
    assert set(train).isdisjoint(held_out)
    assert sorted(train + held_out) == sorted(row["text"] for row in rows(2000))
    assert 150 < len(held_out) < 250


def test_hold_out_does_not_change_when_records_are_added_or_reordered(write_jsonl):
    few = Corpus(str(write_jsonl(rows(500), "few.jsonl")), validation_fraction=0.1)
    many = Corpus(str(write_jsonl(rows(900)[::-1], "many.jsonl")), validation_fraction=0.1)
    held_out_of_few = set(texts(few.validation_records()))
    assert held_out_of_few
    common = {row["text"] for row in rows(500)}
    assert common.intersection(texts(many.validation_records())) == held_out_of_few


def test_hold_out_is_the_same_in_every_process(write_jsonl):
    # SHA-256 of the record decides. Another rule would move training records of earlier runs
    # into validation, hence this copy of the rule's answer.
    corpus = Corpus(str(write_jsonl(rows(40))), validation_fraction=0.1)
    assert texts(corpus.validation_records()) == ["text 16", "text 19", "text 28"]


def test_equal_records_are_held_out_together(write_jsonl):
    corpus = Corpus(str(write_jsonl(rows(200) * 2)), validation_fraction=0.3)
    assert set(texts(corpus.train_records())).isdisjoint(texts(corpus.validation_records()))


@pytest.mark.parametrize("labels", [None, LabelField("topic", "topic", ["a", "b"])])
def test_all_texts_of_a_source_are_on_one_side(write_jsonl, labels):
    """Other wordings of every held-out source stayed in training."""
    path = write_jsonl(
        {"text": f"text {n}", "source": f"source {n % 100}", "topic": "ab"[n % 3 == 0]}
        for n in range(400)
    )
    corpus = Corpus(str(path), validation_fraction=0.2, source_field="source", labels=labels)
    train, held_out = (
        {record.source.rpartition("\n")[2] for record in records}
        for records in (corpus.train_records(), corpus.validation_records())
    )
    assert train.isdisjoint(held_out)
    assert len(train | held_out) == 100
    assert 10 < len(held_out) < 30


def test_without_a_source_of_its_own_a_text_is_held_out_by_itself(write_jsonl):
    """A label, or an empty source, is that of many texts, which go to both sides."""
    plain = [{"text": f"text {n}", "source": "", "topic": "ab"[n % 2]} for n in range(40)]
    labels = LabelField("topic", "topic", ["a", "b"])
    for options in ({"labels": labels}, {"source_field": "source"}):
        corpus = Corpus(str(write_jsonl(plain)), validation_fraction=0.1, **options)
        assert texts(corpus.validation_records()) == ["text 16", "text 19", "text 28"]


def test_a_validation_file_leaves_the_training_file_whole(write_jsonl):
    corpus = Corpus(
        str(write_jsonl(rows(50), "train.jsonl")),
        validation=str(write_jsonl([{"text": "other"}], "validation.jsonl")),
        validation_fraction=0.5,
    )
    assert texts(corpus.train_records()) == [row["text"] for row in rows(50)]
    assert texts(corpus.validation_records()) == ["other"]


def test_fingerprints_change_with_all_that_changes_the_records(write_jsonl):
    path = str(write_jsonl(rows(3)))
    other = str(write_jsonl(rows(4), "other.jsonl"))
    fingerprints = [
        Corpus(path).train_fingerprint(),
        Corpus(path).validation_fingerprint(),
        Corpus(path, validation_fraction=0.5).train_fingerprint(),
        Corpus(path, text_field="target").train_fingerprint(),
        Corpus(path, source_field="source").train_fingerprint(),
        Corpus(path, validation=other).train_fingerprint(),
        Corpus(path, validation=other).validation_fingerprint(),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert Corpus(path).train_fingerprint() == fingerprints[0]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_share_of_all_or_nothing_is_refused(fraction):
    with pytest.raises(ValueError, match=r"`validation_fraction` must be between 0 and 1, got"):
        Corpus("a.jsonl", validation_fraction=fraction)


def test_generated_texts_replace_the_training_texts_or_join_them(write_jsonl):
    real = write_jsonl([{"target": f"real {n}", "source": str(n)} for n in range(4)], "real.jsonl")
    rows_of_generate = [{"id": n, "text": f"generated {n}", "source": str(n)} for n in range(3)]
    generated = write_jsonl(rows_of_generate, "generated.jsonl")
    fingerprints = set()
    for train_on, expected in (
        ("train", [f"real {n}" for n in range(4)]),
        ("generated", [f"generated {n}" for n in range(3)]),
        ("both", [f"real {n}" for n in range(4)] + [f"generated {n}" for n in range(3)]),
    ):
        corpus = Corpus(
            str(real),
            validation=str(real),
            text_field="target",
            source_field="source",
            generated=None if train_on == "train" else str(generated),
            train_on=train_on,
        )
        assert texts(corpus.train_records()) == expected
        assert texts(corpus.validation_records()) == [f"real {n}" for n in range(4)]
        fingerprints.add(corpus.train_fingerprint())
    assert len(fingerprints) == 3


@pytest.mark.parametrize("train_on", ["generated", "both"])
def test_texts_generated_for_held_out_sources_are_left_aside(write_jsonl, train_on):
    """The teacher's texts for held-out sources were trained on, and validated with."""
    real = [{"text": f"real {n}", "source": str(n)} for n in range(200)]
    written = [{"text": f"generated {n}", "source": str(n)} for n in range(220)]
    generated = str(write_jsonl(written, "generated.jsonl"))
    options = {"validation_fraction": 0.2, "source_field": "source", "train_on": train_on}
    corpus = Corpus(str(write_jsonl(real)), generated=generated, **options)
    held_out = {record.source for record in corpus.validation_records()}
    records = list(corpus.train_records())
    assert held_out
    assert held_out.isdisjoint(record.source for record in records)
    num_generated = sum(record.text.startswith("generated") for record in records)
    assert num_generated == 220 - len(held_out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_on": "both", "source_field": "source"}, 'got "both"'),
        ({"generated": "a.jsonl", "source_field": "source"}, 'got "train"'),
        ({"generated": "a.jsonl", "train_on": "both"}, "`generated` needs a `source_field`"),
        ({"source_separator": "],"}, r"`source_separator` needs a `source_field`, got '\],'"),
        (
            {"source_separator": "", "source_field": "s"},
            "`source_separator` must hold at least one character",
        ),
    ],
)
def test_options_that_need_others_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Corpus("real.jsonl", **options)
