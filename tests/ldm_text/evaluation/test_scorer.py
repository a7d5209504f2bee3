import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ldm_text.baselines import AutoregressiveModel
from ldm_text.data.records import TextRecord
from ldm_text.evaluation.likelihood import measure_likelihood
from ldm_text.evaluation.scorer import CausalLMScorer, PipelineScorer, Scorer
from ldm_text.evaluation.words import words_of

TEXTS = ["a pub", "", "It is cheap.", "The Mill is nice."]
SOURCES = ["name[The Mill]", "name[Zizzi]", "", "a"]


class Bounded(AutoregressiveModel):
    bound_kind = "upper bound"


@pytest.fixture
def make_gpt2(toy_tokenizer):
    def make(active=True):
        config = GPT2Config(
            vocab_size=len(toy_tokenizer),
            n_positions=12,
            n_embd=16,
            n_layer=1,
            n_head=2,
            bos_token_id=1,
            eos_token_id=1,
        )
        model = GPT2LMHeadModel(config).eval()
        if not active:
            torch.nn.init.zeros_(model.lm_head.weight)
        return model

    return make


@pytest.fixture
def gpt2_folder(make_gpt2, toy_tokenizer, tmp_path):
    folder = tmp_path / "gpt2"
    make_gpt2().save_pretrained(folder)
    toy_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("sources", [SOURCES, None])
def test_perplexity_is_that_of_the_models_own_likelihood(scorer, token_pipeline, sources):
    given = sources or [None] * 4
    records = [TextRecord(text, source) for text, source in zip(TEXTS, given, strict=True)]
    own = measure_likelihood(token_pipeline, records)
    scores = scorer.score(TEXTS, sources)
    perplexity = scores.figures()["generative_perplexity"]
    assert perplexity == pytest.approx(math.exp(own["nats_per_token"]), rel=1e-5)
    assert scores.num_tokens.sum() == own["num_tokens"]
    assert scores.num_words.tolist() == [2, 0, 4, 5]


def test_an_untrained_scorer_gives_the_vocabulary_size(make_token_pipeline, toy_tokenizer):
    scorer = PipelineScorer(make_token_pipeline(active=False), "toy")
    figures = scorer.score(TEXTS).figures()
    choices = len(toy_tokenizer) - 2
    assert figures["generative_perplexity"] == pytest.approx(choices, rel=1e-5)
    num_tokens = scorer.score(TEXTS).num_tokens.sum()
    per_word = choices ** (num_tokens / 11)
    assert figures["generative_perplexity_per_word"] == pytest.approx(per_word, rel=1e-3)


def test_no_score_depends_on_the_batch(scorer, make_gpt2, toy_tokenizer):
    for one in (scorer, CausalLMScorer(make_gpt2(), toy_tokenizer, "gpt2")):
        together = one.score(TEXTS, SOURCES)
        alone = [one.score([text], [source]) for text, source in zip(TEXTS, SOURCES, strict=True)]
        nats = [scores.nats[0] for scores in alone]
        np.testing.assert_allclose(together.nats, nats, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.score(TEXTS, SOURCES, 2).nats, nats, rtol=1e-4, atol=1e-5)


def test_sources_are_seen_unless_it_is_told_otherwise(token_pipeline, scorer):
    blind = PipelineScorer(token_pipeline, "toy", sees_source=False)
    assert not np.allclose(scorer.score(TEXTS, SOURCES).nats, scorer.score(TEXTS).nats)
    np.testing.assert_array_equal(blind.score(TEXTS, SOURCES).nats, scorer.score(TEXTS).nats)


def test_texts_are_scored_up_to_the_scorers_length(scorer, make_gpt2, toy_tokenizer):
    long = ["The Vaults is a nice pub. " * 10]
    assert scorer.score(long).num_tokens.tolist() == [16]
    # One of the 12 positions is that of the token before the text.
    assert CausalLMScorer(make_gpt2(), toy_tokenizer, "gpt2").score(long).num_tokens.tolist() == [
        11
    ]


def test_words_are_those_of_the_part_that_is_scored(scorer, make_gpt2, toy_tokenizer):
    """All words of a text divided the nats of its beginning, so that long texts seemed probable."""
    sentence = "The Vaults is a nice pub. "
    models = {scorer: 16, CausalLMScorer(make_gpt2(), toy_tokenizer, "gpt2"): 11}
    for model, num_tokens in models.items():
        beginning = toy_tokenizer.decode(toy_tokenizer(sentence * 10)["input_ids"][:num_tokens])
        scores = model.score([sentence * 10, sentence * 20, "a pub"])
        assert scores.num_words.tolist() == [*[len(words_of(beginning))] * 2, 2]
        assert scores.nats[0] == pytest.approx(scores.nats[1], rel=1e-5)


def test_a_hugging_face_model_scores_as_its_own_loss_says(make_gpt2, toy_tokenizer):
    model = make_gpt2()
    scores = CausalLMScorer(model, toy_tokenizer, "gpt2").score(TEXTS)
    for text, nats, num_tokens in zip(TEXTS, scores.nats, scores.num_tokens, strict=True):
        ids = toy_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert num_tokens == len(ids)
        if ids:
            row = torch.tensor([[toy_tokenizer.eos_token_id, *ids]])
            loss = model(input_ids=row, labels=row).loss.item()  # mean over all but the first
            assert nats == pytest.approx(loss * len(ids), rel=1e-4)
        else:
            assert nats == 0


def test_texts_without_a_token_have_no_perplexity(make_gpt2, toy_tokenizer):
    assert CausalLMScorer(make_gpt2(), toy_tokenizer, "gpt2").score([""]).figures() == {}


def test_the_folder_tells_the_kind(token_pipeline_folder, gpt2_folder, pipeline_folder):
    own, other = (Scorer.from_pretrained(path) for path in (token_pipeline_folder, gpt2_folder))
    assert isinstance(own, PipelineScorer)
    assert isinstance(other, CausalLMScorer)
    assert own.name == str(token_pipeline_folder)
    assert "end token" in own.kind
    with pytest.raises(ValueError, match="is a latent pipeline"):
        Scorer.from_pretrained(pipeline_folder)


def test_a_scorer_needs_an_exact_likelihood(make_token_pipeline):
    with pytest.raises(ValueError, match="no exact likelihood: a scorer must be autoregressive"):
        PipelineScorer(make_token_pipeline(model_class=Bounded), "toy")


def test_pickled_weights_are_not_read(make_gpt2, gpt2_folder):
    (gpt2_folder / "model.safetensors").unlink()
    torch.save(make_gpt2().state_dict(), gpt2_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="causal language model of Hugging Face with safetensors"):
        Scorer.from_pretrained(gpt2_folder)
