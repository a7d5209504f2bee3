import math
import sys

import pytest

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.evaluator import TextEvaluator

RECORDS = [
    TextRecord(
        "The Mill is a French restaurant.",
        "name[The Mill], food[French]",
        ("The Mill is a French restaurant.", "A French place: The Mill."),
    ),
    TextRecord("Zizzi is a pub.", "name[Zizzi], eatType[pub]", ("Zizzi is a pub.",)),
    TextRecord("A cheap pub.", "eatType[pub]", ("A cheap pub.",)),
]
STORIES = [TextRecord(f"Tom saw a {animal} and ran away.") for animal in ("dog", "cat", "bee")]
ALWAYS = {
    "unigram_entropy",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "distinct_4",
    "repetition",
    "self_bleu",
    "mean_length_tokens",
    "length_error",
    "length_distance",
}
WITH_REFERENCES = {"bleu", "chrf", "rouge_l"}
WITH_SLOTS = {
    "slot_error_rate",
    "rows_with_missing",
    "rows_with_invented",
    "rows_with_omitted",
    "rows_with_contradicted",
    "rows_without_fault",
}
WITH_TRAINING = {"train_4gram_overlap", "copied_from_training"}
WITH_SCORER = {"generative_perplexity", "generative_perplexity_per_word"}
WITH_EMBEDDER = {"mauve", "frechet_distance", "energy_distance"}


@pytest.fixture(autouse=True)
def _quick_mauve(monkeypatch):
    """These tests are about which figures there are, so they run without the extra too."""
    monkeypatch.setattr("ldm_text.evaluation.evaluator.mauve", lambda *_: 0.5)


def texts_of(records):
    return [record.text for record in records]


def test_each_part_adds_its_own_figures(scorer, embedder):
    assert TextEvaluator(STORIES)(texts_of(STORIES)).keys() == ALWAYS
    conditional = TextEvaluator(RECORDS)(texts_of(RECORDS))
    assert conditional.keys() == ALWAYS | WITH_REFERENCES | WITH_SLOTS
    everything = TextEvaluator(RECORDS, ["Zizzi is a pub."], scorer, embedder)(texts_of(RECORDS))
    assert everything.keys() == (
        ALWAYS | WITH_REFERENCES | WITH_SLOTS | WITH_TRAINING | WITH_SCORER | WITH_EMBEDDER
    )
    assert all(isinstance(value, float) for value in everything.values())


def test_sources_without_slots_have_no_slot_errors():
    records = [TextRecord("a pub", "Write of a pub.", ("a pub",))]
    assert not TextEvaluator(records)(["a pub"]).keys() & WITH_SLOTS


def test_the_references_themselves_are_right_answers_at_no_distance(scorer, embedder):
    figures = TextEvaluator(RECORDS, texts_of(RECORDS), scorer, embedder)(texts_of(RECORDS))
    assert figures["bleu"] == pytest.approx(100)
    assert figures["rouge_l"] == figures["train_4gram_overlap"] == 1
    assert figures["copied_from_training"] == 1
    zero = ("slot_error_rate", "length_error", "length_distance")
    assert [figures[name] for name in zero] == [0, 0, 0]
    assert figures["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert figures["energy_distance"] == pytest.approx(0, abs=1e-6)
    sources = [record.source for record in RECORDS]
    perplexity = scorer.score(texts_of(RECORDS), sources).figures()["generative_perplexity"]
    assert figures["generative_perplexity"] == perplexity


def test_periodic_text_is_seen_as_such(embedder):
    evaluator = TextEvaluator(STORIES, texts_of(STORIES), embedder=embedder)
    good, bad = evaluator(texts_of(STORIES)), evaluator(["zi zi zi zi zi zi zi zi"] * 3)
    assert bad["unigram_entropy"] == 0
    assert good["unigram_entropy"] == pytest.approx(math.log(8))
    assert bad["repetition"] == pytest.approx(4 / 5)
    assert bad["self_bleu"] == pytest.approx(100)
    assert bad["train_4gram_overlap"] == 0
    assert bad["distinct_1"] == pytest.approx(1 / 24)
    for name in ("frechet_distance", "energy_distance"):
        assert bad[name] > 10 * max(good[name], 1e-3)


def test_texts_without_sources_may_be_of_any_number(embedder):
    evaluator = TextEvaluator(STORIES, embedder=embedder)
    assert evaluator(texts_of(STORIES) * 2)["frechet_distance"] < 0.01
    alone = evaluator(["Tom saw a dog."])
    assert not alone.keys() & (WITH_EMBEDDER | {"self_bleu"})


def test_calls_do_not_add_up(scorer):
    evaluator = TextEvaluator(RECORDS, ["Zizzi is a pub."], scorer)
    first = evaluator(["a", "b", "c"])
    evaluator(texts_of(RECORDS))
    assert evaluator(["a", "b", "c"]) == first


def test_slot_values_of_the_training_are_known_too():
    texts = ["The Mill: French. Aromi.", "Zizzi is a pub.", "A pub."]
    assert TextEvaluator(RECORDS)(texts)["rows_with_invented"] == 0
    known = TextEvaluator(RECORDS, slot_sources=["name[Aromi]"])
    assert known(texts)["rows_with_invented"] == pytest.approx(1 / 3)


def test_other_references_change_what_hangs_on_them_and_nothing_else(embedder):
    evaluator = TextEvaluator(STORIES, texts_of(STORIES), embedder=embedder)
    texts, others = texts_of(STORIES), [TextRecord("zzz zzz"), TextRecord("zzz zz zzz")]
    own, against = evaluator(texts), evaluator.against(others)(texts)
    assert evaluator(texts) == own
    changed = {name for name in own if own[name] != against[name]}
    assert changed == {"length_error", "length_distance", "frechet_distance", "energy_distance"}


def test_the_report_names_what_was_measured_with(scorer, embedder):
    described = TextEvaluator(RECORDS, ["a", "a"], scorer, embedder).describe()
    assert described["scorer"] == {
        "name": "toy",
        "kind": scorer.kind,
        "sees_source": True,
    }
    assert described["embedder"] == "letters"
    assert (described["num_reference_texts"], described["num_training_texts"]) == (3, 1)
    assert TextEvaluator(RECORDS).describe()["scorer"] is None


@pytest.mark.parametrize(
    ("records", "texts", "message"),
    [
        ([], ["a"], "`records` must hold at least one record"),
        ([*RECORDS, *STORIES], ["a"], "all of them a source or none, got 6 with 3 sources"),
        (RECORDS, ["a"], "`texts` must hold 3, got 1"),
        (STORIES, [], "`texts` must hold at least one, got 0"),
    ],
)
def test_wrong_numbers_are_refused(records, texts, message):
    with pytest.raises(ValueError, match=message):
        TextEvaluator(records)(texts)


def test_heavy_packages_are_needed_with_an_embedder_only(monkeypatch):
    for name in ("mauve", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert TextEvaluator(RECORDS)(texts_of(RECORDS))["bleu"] == pytest.approx(100)
