import random

import pytest

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.style_classifier import StyleClassifier

OLD = ["Thou hast a goodly house.", "He cometh unto thee.", "Whither goest thou?", "She saith nay."]
NEW = ["You have a good house.", "He comes to you.", "Where do you go?", "She says no."]


@pytest.fixture
def style():
    return StyleClassifier(OLD, NEW)


def record(source, *references):
    return TextRecord(references[0], source, references)


def test_the_style_of_new_texts_is_told(style):
    texts = ["Thou goest unto him.", "You go to him.", "He saith it unto thee.", "You do say no."]
    assert style.in_target_style(texts).tolist() == [False, True, False, True]


def test_held_out_accuracy_weighs_sources_and_references_equally(style):
    """One record is right on both sides, one on its source and on one of two references."""
    records = [
        record("Thou comest unto her.", "You come to her."),
        record("She hath thee.", "She has you.", "Thou hast thee unto thee."),
    ]
    figures = style.held_out_accuracy(records)
    assert figures["accuracy"] == pytest.approx((1 + 0.75) / 2)
    assert figures["standard_error"] == pytest.approx(0.125)  # of 1 and 0.75
    assert (figures["source_accuracy"], figures["target_accuracy"]) == (1, 0.75)
    assert (figures["num_records"], figures["num_left_out"]) == (2, 0)


def test_pairs_with_a_training_text_are_left_out_whole(style):
    records = [
        record("Thou comest.", "You come.", NEW[0]),
        record(OLD[1], "He does come."),
        record("Amen.", "Amen."),  # of no style: source and reference alike
        record("Thou comest unto her.", "You come to her."),
    ]
    figures = style.held_out_accuracy(records)
    assert (figures["num_records"], figures["num_left_out"]) == (1, 3)
    assert style.held_out_accuracy(records[:3]) == {"num_records": 0, "num_left_out": 3}


def test_styles_that_are_the_same_are_told_at_chance():
    """An accuracy far above one half would mean that training texts are among the held-out ones."""
    draw = random.Random(0)
    words = [f"{first}{second}" for first in "abcdefgh" for second in "aeiou"]
    texts = [" ".join(draw.choices(words, k=6)) for _ in range(600)]
    records = [record(*texts[start : start + 2]) for start in range(400, 600, 2)]
    style = StyleClassifier(texts[:200], texts[200:400])
    assert style.held_out_accuracy(records)["accuracy"] == pytest.approx(0.5, abs=0.12)


def test_many_references_do_not_make_their_style_likelier():
    """A text without any known word is told by the prior alone, which is one half."""
    many = [f"{text} {index}" for text in NEW for index in range(20)]
    probability = StyleClassifier(OLD, many).classify.model.predict_proba(["qqqq"])[0, 1]
    assert probability == pytest.approx(0.5, abs=0.15)


def test_texts_of_both_styles_teach_nothing():
    style = StyleClassifier([*OLD, "Amen."], [*NEW, "Amen."])
    assert style.ambiguous == {"Amen."}
    alone = StyleClassifier(OLD, NEW)
    texts = ["Amen.", "Thou sayest amen."]
    assert (
        style.classify.model.predict_proba(texts) == alone.classify.model.predict_proba(texts)
    ).all()
    with pytest.raises(ValueError, match="sources that are no targets"):
        StyleClassifier(["Amen."], ["Amen.", "You say no."])
