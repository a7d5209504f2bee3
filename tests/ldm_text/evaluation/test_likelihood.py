import math

import numpy as np
import pytest
import torch

from ldm_text.baselines import AutoregressiveModel
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.likelihood import likelihood_figures, measure_likelihood

RECORDS = [
    TextRecord("a pub", "name[The Mill]", ("a pub", "It is cheap.")),
    TextRecord("Zizzi", "", ("Zizzi",)),
    TextRecord("a nice pub", "name[Zizzi]", ("a nice pub",)),
]
UNCONDITIONAL = [TextRecord("a pub"), TextRecord(""), TextRecord("It is cheap.")]


class NoisyBound(AutoregressiveModel):
    """An upper bound by chance: the exact value and up to two nats a text."""

    bound_kind = "upper bound"

    def negative_log_likelihood(self, batch, generator=None):
        noise = 2 * torch.rand(len(batch), generator=generator)
        return super().negative_log_likelihood(batch) + noise


class NoBound(AutoregressiveModel):
    bound_kind = None


@pytest.mark.parametrize("records", [RECORDS, UNCONDITIONAL])
def test_an_untrained_model_gives_the_vocabulary_size(make_token_pipeline, toy_tokenizer, records):
    figures = measure_likelihood(make_token_pipeline(active=False), records)
    choices = len(toy_tokenizer) - 2  # neither pad nor mask comes next
    assert figures["kind"] == "exact"
    assert figures["perplexity_per_token"] == pytest.approx(choices, rel=1e-5)
    assert figures["nats_per_token"] == pytest.approx(math.log(choices), rel=1e-5)
    assert figures["nats_per_token_standard_error"] == pytest.approx(0, abs=1e-5)


def test_tokens_are_those_of_the_text_and_its_end(token_pipeline):
    ids = token_pipeline.tokenizer(["a pub", "", "It is cheap."])["input_ids"]
    figures = measure_likelihood(token_pipeline, UNCONDITIONAL)
    assert figures["num_tokens"] == sum(len(row) + 1 for row in ids)
    assert figures["num_texts"] == 3
    expected = figures["nats_per_token"] * figures["num_tokens"]
    assert figures["nats_per_text"] * 3 == pytest.approx(expected)


def test_every_reference_counts_given_its_source(token_pipeline):
    figures = measure_likelihood(token_pipeline, RECORDS)
    assert figures["num_texts"] == 4
    others = [TextRecord(one.text, "other", one.references) for one in RECORDS]
    assert measure_likelihood(token_pipeline, others)["nats_per_text"] != figures["nats_per_text"]
    alone = measure_likelihood(token_pipeline, RECORDS, batch_size=1)
    assert alone["nats_per_text"] == pytest.approx(figures["nats_per_text"], rel=1e-5)


def test_texts_too_long_are_left_out_and_counted(token_pipeline):
    figures = measure_likelihood(token_pipeline, [*UNCONDITIONAL, TextRecord("Zizzi" * 20)])
    assert (figures["num_texts"], figures["num_too_long"]) == (3, 1)
    figures = measure_likelihood(token_pipeline, [TextRecord("Zizzi" * 20)])
    assert figures == {"kind": "exact", "num_texts": 0, "num_too_long": 1}


def test_a_random_bound_is_drawn_several_times_and_its_error_told(make_token_pipeline):
    pipeline = make_token_pipeline(active=False, model_class=NoisyBound)
    figures = measure_likelihood(pipeline, RECORDS, num_draws=8)
    assert (figures["kind"], figures["num_draws"]) == ("upper bound", 8)
    assert figures["draws_standard_error"] > 0
    assert figures == measure_likelihood(pipeline, RECORDS, num_draws=8)
    assert figures != measure_likelihood(pipeline, RECORDS, num_draws=8, seed=1)
    assert measure_likelihood(pipeline, RECORDS, num_draws=1)["draws_standard_error"] is None


def test_a_family_without_a_bound_and_a_latent_pipeline_give_no_number(
    make_token_pipeline, pipeline
):
    assert measure_likelihood(make_token_pipeline(model_class=NoBound), RECORDS) == {"kind": None}
    assert measure_likelihood(pipeline, RECORDS) == {"kind": None}


def test_standard_errors_cover_the_truth_as_often_as_they_should():
    """Nats of independent texts of 2 nats a token with noise: the error is that of the ratio."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        num_tokens = generator.integers(5, 40, 200)
        nats = 2 * num_tokens + generator.normal(size=200) * np.sqrt(num_tokens)
        figures = likelihood_figures(nats[None], num_tokens)
        error = abs(figures["nats_per_token"] - 2)
        inside += error < 1.96 * figures["nats_per_token_standard_error"]
    assert 0.92 < inside / 400 < 0.98
    assert (
        likelihood_figures(np.array([[3.0]]), np.array([2]))["nats_per_text_standard_error"] is None
    )
