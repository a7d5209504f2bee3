"""Scores of texts under discrete models, whose bounds are random."""

import pytest
import torch

from ldm_text.baselines import AutoregressiveModel, MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.sequences import TokenBatch, prompt_batch
from ldm_text.control.scoring import text_scores, token_log_probs, with_end
from tests.ldm_text.baselines.families import FAMILIES

SOURCE = "name[The Mill]"
SIZES = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2}


def make_sequences(num_rows, num_tokens=9):
    sequences = torch.zeros(num_rows, 16, dtype=torch.long)
    sequences[:, :num_tokens] = torch.randint(3, 300, (num_rows, num_tokens))
    return sequences


@pytest.fixture
def make_token_pipeline(toy_tokenizer, activate):
    """Make a pipeline of random weights, texts of 16 tokens and sources of 24."""

    def make(family):
        model = activate(family(vocab_size=300, **SIZES)).eval()
        return TokenPipeline(toy_tokenizer, model, 16, 24)

    return make


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_copies_of_a_text_have_one_score(make_token_pipeline, family):
    """Each row had its own time and mask, and the largest of its noise was chosen."""
    pipeline = make_token_pipeline(family)
    text, other = make_sequences(2)
    sequences = torch.stack((text, text, other, text))
    scores = text_scores(pipeline, [SOURCE] * 4, sequences)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[0] == pytest.approx(scores[3], abs=1e-5)
    assert scores[0] != pytest.approx(scores[2], abs=1e-3)
    alone = text_scores(pipeline, [SOURCE], sequences[:1])
    assert alone[0] == pytest.approx(scores[0], abs=1e-5)


def test_only_the_counted_tokens_have_a_part_in_the_score(pipeline, make_token_pipeline):
    """Longer gaps say little new: their tokens must not count."""
    sequences = make_sequences(2)
    counted = torch.zeros(2, 16, dtype=torch.bool)
    counted[:, 4:7] = True
    prompts = [SOURCE, None]
    log_probs = token_log_probs(pipeline, prompts, sequences)
    scores = text_scores(pipeline, prompts, sequences, counted)
    assert scores == pytest.approx(log_probs[:, 4:7].mean(dim=1).tolist(), abs=1e-5)
    discrete = make_token_pipeline(AutoregressiveModel)
    whole = text_scores(discrete, prompts, sequences)  # over 9 tokens and the end
    shares = [score * 10 / 3 for score in whole]
    assert text_scores(discrete, prompts, sequences, counted) == pytest.approx(shares, abs=1e-4)


def test_an_exact_likelihood_is_computed_in_one_batch(make_token_pipeline):
    pipeline = make_token_pipeline(AutoregressiveModel)
    calls = []
    pipeline.network.register_forward_pre_hook(lambda *_: calls.append(None))
    text_scores(pipeline, [SOURCE, None, None], make_sequences(3))
    assert len(calls) == 1


def test_a_text_that_was_learned_scores_above_its_scrambled_tokens(toy_tokenizer):
    model = MaskedDiffusionModel(vocab_size=300, **SIZES)
    (text,) = make_sequences(1)
    ids = with_end(text[None], 0, 1).expand(32, -1)
    empty = prompt_batch([[]] * 32, 1, torch.device("cpu"))
    batch = TokenBatch(empty.source_ids, empty.source_mask, ids, ids != 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    scrambled = [text[torch.randperm(9)] for _ in range(8)]
    sequences = torch.zeros(9, 16, dtype=torch.long)
    sequences[:, :9] = torch.stack((*scrambled, text[:9]))
    pipeline = TokenPipeline(toy_tokenizer, model.eval(), 16, 24)
    scores = text_scores(pipeline, [None] * 9, sequences)
    assert scores[-1] > max(scores[:-1])
