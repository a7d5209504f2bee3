import pytest
import torch

from ldm_text.data.corpus import Corpus
from ldm_text.data.labels import LabelField, TextFieldLabels, labels_of_training
from ldm_text.data.text_data_module import TextDataModule

TOPICS = ["Sports", "Sci/Tech"]
ROWS = [
    {"text": f"Text {number}.", "source": f"source {number}", "topic": TOPICS[number % 2]}
    for number in range(12)
]


def topics():
    return LabelField("topic", "topic", TOPICS)


@pytest.fixture
def make(tmp_path, tokenizer_folder, write_jsonl):
    def build(rows=ROWS, corpus=None, **options):
        data = str(write_jsonl(rows))
        module = TextDataModule(
            Corpus(data, validation=data, **{"labels": topics()} | (corpus or {})),
            tokenizer=tokenizer_folder,
            cache_dir=str(tmp_path / "cache"),
            **{"layout": "rows", "batch_size": 4, "max_length_tokens": 32} | options,
        )
        module.prepare_data()
        module.setup("fit")
        return module

    return build


def test_the_label_is_the_first_line_of_the_source(write_jsonl):
    path = str(write_jsonl(ROWS))
    plain = list(Corpus(path, labels=topics(), validation=path).train_records())
    assert [record.source for record in plain[:2]] == ["topic: Sports", "topic: Sci/Tech"]
    joint = Corpus(path, source_field="source", labels=topics(), validation=path)
    assert next(joint.validation_records()).source == "topic: Sports\nsource 0"
    assert [record.label for record in plain[:3]] == [0, 1, 0]


def test_batches_hold_the_number_of_the_label_beside_its_text(make, tokenizer):
    module = make()
    assert (module.attribute, module.label_names) == ("topic", TOPICS)
    for batch in module.train_dataloader():
        assert torch.equal(batch["label"], batch["row"] % 2)
        for ids, mask, label in zip(
            batch["source_ids"], batch["source_mask"], batch["label"], strict=True
        ):
            text = tokenizer.decode(ids[mask][:-1].tolist())
            assert text == f"topic: {TOPICS[label]}"


def test_dropped_texts_take_their_labels_along(make):
    rows = [row | {"text": row["text"] * (20 if n % 3 == 0 else 1)} for n, row in enumerate(ROWS)]
    module = make(rows, long_texts="drop")
    (batch,) = make(rows, long_texts="drop", batch_size=8).val_dataloader()
    assert len(module._datasets["train"]) == 8
    assert batch["label"].tolist() == [n % 2 for n in range(12) if n % 3]


def test_a_record_with_texts_of_several_labels_becomes_several(make, write_jsonl):
    labels = TextFieldLabels("toxicity", {"low": "target", "high": "source"})
    rows = [{"source": f"bad {n}", "target": f"good {n}"} for n in range(4)]
    path = str(write_jsonl(rows, "pairs.jsonl"))
    records = list(Corpus(path, validation=path, labels=labels).train_records())
    assert [record.text for record in records[:4]] == ["good 0", "bad 0", "good 1", "bad 1"]
    assert [record.label for record in records[:4]] == [0, 1, 0, 1]
    (batch,) = make(rows, {"labels": labels}, batch_size=8).val_dataloader()
    assert batch["label"].tolist() == [0, 1] * 4


def test_data_without_labels_has_none(make):
    module = make(corpus={"labels": None})
    assert (module.attribute, module.label_names) == (None, None)
    assert "label" not in next(iter(module.train_dataloader()))


def test_fingerprints_change_with_the_labels(write_jsonl):
    path = str(write_jsonl(ROWS))
    fingerprints = {
        Corpus(path, labels=labels).train_fingerprint()
        for labels in (None, topics(), LabelField("topic", "topic", TOPICS[::-1]))
    }
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"topic": "Weather"}, r"line 2: field `topic`: there is no topic 'Weather'; those there"),
        ({"topic": 1}, r"line 2: field `topic`: there is no topic 1"),
        ({}, r"line 2: no field `topic`; the fields there are 'text'"),
    ],
)
def test_an_unknown_label_is_refused_with_its_line(write_jsonl, row, message):
    path = str(write_jsonl([{"text": "a", "topic": "Sports"}, {"text": "b"} | row]))
    with pytest.raises(ValueError, match=message):
        list(Corpus(path, validation=path, labels=topics()).train_records())


def test_labels_exclude_what_would_cut_them_off(make):
    with pytest.raises(ValueError, match='`long_texts: "split"` cuts a text from its source'):
        make(long_texts="split")
    with pytest.raises(ValueError, match="`generated` excludes `labels`"):
        Corpus("a", source_field="b", generated="c", train_on="both", labels=topics())


def test_labels_are_found_in_the_configuration_of_a_training():
    fields = {"name": "toxicity", "fields": {"low": "target", "high": "source"}}
    for name, options, names in (
        ("LabelField", {"name": "topic", "field": "x", "names": TOPICS}, tuple(TOPICS)),
        ("TextFieldLabels", fields, ("low", "high")),
    ):
        entry = {"class_path": f"ldm_text.data.{name}", "init_args": options}
        found = labels_of_training({"corpus": {"init_args": {"labels": entry}}})
        assert (found.name, found.names) == (options["name"], names)
    assert labels_of_training({"corpus": {"init_args": {"labels": None}}}) is None
    assert labels_of_training({}) is None
