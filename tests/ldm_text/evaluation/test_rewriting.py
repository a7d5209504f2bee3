import numpy as np
import pytest

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.reference_metrics import ReferenceMetrics
from ldm_text.evaluation.rewriting import RewritingEvaluator, cosines
from ldm_text.evaluation.style_classifier import StyleClassifier

OLD = ["Thou hast a goodly house.", "He cometh unto thee.", "Whither goest thou?"]
NEW = ["You have a good house.", "He comes to you.", "Where do you go?"]
RECORDS = [
    TextRecord(NEW[0], OLD[0], (NEW[0], "You have a fine house.")),
    TextRecord(NEW[1], OLD[1], (NEW[1],)),
    TextRecord(NEW[2], OLD[2], (NEW[2], "Where are you going?")),
]


@pytest.fixture(scope="module")
def style():
    return StyleClassifier(OLD, NEW)


@pytest.fixture
def evaluator(style, embedder, scorer):
    return RewritingEvaluator(RECORDS, style, embedder, scorer, separator=" and ")


def test_cosines_are_those_of_pairs():
    vectors = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]])
    others = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert cosines(vectors, others) == pytest.approx([1, np.sqrt(0.5), 0, -1])


def test_figures_of_single_texts(evaluator, embedder, scorer):
    texts = [OLD[0], "He comes to you and you", "Where goest thou?"]
    rows = evaluator.rows(texts)
    assert rows["style"].tolist() == [0, 1, 0]
    assert rows["copies"].tolist() == [1, 0, 0]
    assert rows["one_separator"].tolist() == [0, 1, 0]
    # "He cometh unto thee ." of 5 words, with all but the first of the 6 words changed; 1 of 4.
    assert rows["unchanged"] == pytest.approx([1, 1 / 6, 3 / 4])
    expected = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(embedder.embed(texts), embedder.embed(OLD), strict=True)
    ]
    assert rows["similarity"] == pytest.approx(expected)
    scores = scorer.score(texts)
    assert rows["nats_per_token"] == pytest.approx(scores.nats / scores.num_tokens)
    assert rows["joint"] == pytest.approx(rows["style"] * rows["similarity"] * rows["fluent"])


def test_fluent_is_what_no_reference_exceeds(evaluator, scorer):
    """Of three references the quantile is the largest; all of them are fluent."""
    scores = scorer.score(NEW)
    limit = (scores.nats / scores.num_tokens).max()
    assert evaluator.fluent_nats_per_token == pytest.approx(limit)
    assert evaluator.rows(NEW)["fluent"].tolist() == [1, 1, 1]
    evaluator.fluent_nats_per_token = limit * 0.999
    assert evaluator.rows(NEW)["fluent"].sum() == 2


def test_means_and_errors_are_over_records(evaluator):
    texts = [OLD[0], "He comes to you and you", "Where goest thou?"]
    figures = evaluator([texts])
    style = figures["style"]
    assert style["mean"] == pytest.approx(1 / 3)
    assert style["standard_error"] == pytest.approx(1 / 3)  # sqrt((1 - 1/3) / 3 / (3 - 1))
    nats = evaluator.rows(texts)["nats_per_token"]
    assert figures["nats_per_token"]["mean"] == pytest.approx(nats.mean())
    assert figures["median_perplexity"]["mean"] == pytest.approx(np.exp(np.median(nats)))


def test_samples_of_a_source_are_averaged_first(evaluator):
    """Twice the same text is no more evidence than once."""
    once, twice = evaluator([NEW]), evaluator([NEW, NEW])
    assert twice.keys() == once.keys()
    assert all(twice[name] == pytest.approx(once[name]) for name in once)
    mixed = evaluator([NEW, OLD])["style"]
    assert mixed == {"mean": 0.5, "standard_error": 0.0}


def test_a_copy_is_like_its_source_and_in_its_style(evaluator):
    figures = evaluator.copy_figures()
    means = {name: figure["mean"] for name, figure in figures.items()}
    assert (means["style"], means["joint"]) == (0, 0)
    assert means["copies"] == means["unchanged"] == 1
    assert means["similarity"] == pytest.approx(1)


def test_references_are_compared_with_the_others_alone(evaluator, style):
    """Two of three records have another reference; no text is compared with itself."""
    figures = evaluator.reference_figures()
    others = ReferenceMetrics([["You have a fine house."], ["Where are you going?"]])
    expected = others([NEW[0], NEW[2]])
    assert figures["bleu"]["mean"] == pytest.approx(expected["bleu"])
    assert figures["chrf"]["mean"] == pytest.approx(expected["chrf"])
    assert figures["style"]["mean"] == 1
    single = RewritingEvaluator(RECORDS[1:2], style)
    assert not {"bleu", "chrf"} & single.reference_figures().keys()


def test_errors_of_corpus_scores_come_from_resampled_records(style):
    """Of rows with chrF 100 and 0 the score is about the share of the first, as of a coin."""
    records = [TextRecord("abcd efgh", "z", ("abcd efgh",))] * 64
    evaluator = RewritingEvaluator(records, style)
    chrf = evaluator([["abcd efgh", "qqqq rrrr"] * 32])["chrf"]
    assert chrf["mean"] == pytest.approx(50, abs=1)
    assert chrf["standard_error"] == pytest.approx(100 * 0.5 / 8, rel=0.15)
    assert evaluator([["abcd efgh"] * 64])["chrf"] == {"mean": 100, "standard_error": 0}


def test_without_embedder_and_scorer_their_figures_are_left_out(style, embedder):
    assert RewritingEvaluator(RECORDS, style)([NEW]).keys() == {
        *("style", "unchanged", "copies", "bleu", "chrf")
    }
    rows = RewritingEvaluator(RECORDS, style, embedder).rows(NEW)
    assert rows["joint"] == pytest.approx(rows["style"] * rows["similarity"])
