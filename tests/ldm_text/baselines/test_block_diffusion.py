"""Block diffusion: its likelihood, and what a block sees; see also test_block_sampling.py."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ldm_text.baselines import block_sampling

VOCAB_SIZE, PAD, END, MASK = 40, 0, 1, 2


@pytest.fixture
def make_model(make_baseline):
    return partial(make_baseline, "block_diffusion")


def changed_at(ids, position):
    ids = ids.clone()
    ids[:, position] = 3 + (ids[:, position] + 1) % 30
    return ids


@pytest.mark.parametrize("block_length", [1, 3, 4, 12])
def test_a_fresh_model_knows_nothing(make_model, make_batch, block_length):
    model, batch = make_model(active=False, block_length=block_length), make_batch()
    is_modelled = model.is_modelled(batch)
    # The mask token is nowhere, and the pad token not at the first place of a block.
    is_first = torch.arange(12) % block_length == 0
    choices = torch.where(is_first, VOCAB_SIZE - 2, VOCAB_SIZE - 1).log()
    expected = (choices * is_modelled).sum(dim=1)
    # Each count of masked tokens once; what is left of noise is which of the two it masks.
    nats = model.negative_log_likelihood(batch, num_draws=block_length)
    assert torch.allclose(nats, expected, rtol=0.01 if block_length > 1 else 1e-6)


def test_blocks_behind_the_text_are_not_modelled(make_model, make_batch):
    model, batch = make_model(), make_batch()
    is_modelled = model.is_modelled(batch)
    num_tokens = batch.attention_mask.sum(dim=1)
    assert torch.equal(is_modelled.sum(dim=1), (num_tokens + 3) // 4 * 4)
    losses = model.masked_losses(batch, torch.ones_like(batch.attention_mask))
    assert torch.equal(losses > 0, is_modelled)


def test_blocks_of_one_token_give_the_autoregressive_likelihood(make_model, make_batch):
    """The estimate has no noise, and is the sum of next-token cross-entropies of the network."""
    model, batch = make_model(block_length=1), make_batch()
    nats = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0))
    again = model.negative_log_likelihood(batch, torch.Generator().manual_seed(1), num_draws=3)
    assert torch.allclose(nats, again, atol=1e-5)
    expected = torch.zeros(len(batch))
    for end in range(12):
        mask_token = torch.full((len(batch), 1), MASK)
        logits = model.predict_logits(batch, mask_token, batch.input_ids[:, :end], start=end)
        losses = F.cross_entropy(logits[:, 0], batch.input_ids[:, end], reduction="none")
        expected += losses.masked_fill(~batch.attention_mask[:, end], 0.0)
    assert torch.allclose(nats, expected, atol=1e-4)


def test_training_on_blocks_of_one_masked_token_is_autoregressive(make_model, make_batch):
    model, batch = make_model(block_length=1, min_mask_prob=1.0), make_batch()
    nats = model.negative_log_likelihood(batch)
    assert torch.allclose(model.loss(batch), nats.sum() / batch.attention_mask.sum())


def test_likelihoods_of_all_texts_sum_to_one_with_blocks_of_one_token(
    make_model, prompts, same_source
):
    model = make_model(block_length=1)
    tokens = [token for token in range(VOCAB_SIZE) if token not in (PAD, MASK)]
    texts = torch.tensor([(a, b) for a in tokens if a != END for b in tokens] + [(END, PAD)])
    nats = model.negative_log_likelihood(same_source(prompts, texts)).double()
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_blocks_of_one_token_are_drawn_with_their_likelihood(
    make_model, prompts, monkeypatch, use_cache
):
    """What the sampler drew from, one token after the other, is what the bound says."""
    model, log_probs = make_model(block_length=1), []
    predict = block_sampling.BlockReader.log_probs

    def recorded(reader, block_ids):
        log_probs.append(predict(reader, block_ids))
        return log_probs[-1]

    monkeypatch.setattr(block_sampling.BlockReader, "log_probs", recorded)
    generator = torch.Generator().manual_seed(0)
    ids, _ = model.generate_ids(prompts, 12, generator, use_cache=use_cache)
    drawn = torch.cat(log_probs, dim=1)  # until all texts have ended
    mask = (ids == END).cumsum(dim=1) - (ids == END).long() == 0
    taken = drawn.gather(-1, ids[:, : drawn.shape[1], None])[..., 0]
    expected = -(taken.masked_fill(~mask[:, : drawn.shape[1]], 0.0)).sum(dim=1)
    nats = model.negative_log_likelihood(replace(prompts, input_ids=ids, attention_mask=mask))
    assert torch.allclose(nats, expected, atol=1e-4)


def test_estimate_has_the_bound_of_both_orders_as_its_mean(make_model, prompts, same_source):
    """In a block of two tokens the bound is the mean over the two orders of the chain rule."""
    model = make_model(block_length=2)
    text = torch.tensor([[7, 9, 11, END]])
    batch = same_source(prompts, text)
    bound = torch.zeros(())
    for start in (0, 2):
        block, clean = text[:, start : start + 2], text[:, :start]
        for seen, noisy in ((None, (MASK, MASK)), (0, (None, MASK)), (1, (MASK, None))):
            ids = torch.tensor([[block[0, i] if n is None else n for i, n in enumerate(noisy)]])
            losses = F.cross_entropy(
                model.predict_logits(batch, ids, clean, start)[0], block[0], reduction="none"
            )
            bound += losses.sum() / 2 if seen is None else losses[1 - seen] / 2
    many = same_source(prompts, text.expand(2000, -1))
    nats = model.negative_log_likelihood(many, torch.Generator().manual_seed(0))
    error = nats.std() / math.sqrt(2000)
    assert error < 0.1
    assert abs(nats.mean() - bound) < 4 * error


@pytest.mark.parametrize("block_length", [1, 2, 4, 12])
def test_a_block_sees_itself_and_clean_blocks_before_it_and_nothing_else(
    make_model, make_batch, block_length
):
    model, batch = make_model(block_length=block_length), make_batch()
    noisy = batch.input_ids.masked_fill(torch.rand(batch.input_ids.shape) < 0.5, MASK)
    clean = batch.input_ids[:, :-block_length]
    logits = model.predict_logits(batch, noisy, clean)
    block = torch.arange(12) // block_length
    position = 5
    own = block == block[position]

    is_changed = (model.predict_logits(batch, changed_at(noisy, position), clean) != logits).any(-1)
    assert torch.equal(is_changed, own.expand_as(is_changed))
    if position < clean.shape[1]:
        after = model.predict_logits(batch, noisy, changed_at(clean, position))
        is_changed = (after != logits).any(-1)
        assert torch.equal(is_changed, (block > block[position]).expand_as(is_changed))
    sources = replace(batch, source_ids=changed_at(batch.source_ids, -1))
    assert (model.predict_logits(sources, noisy, clean) != logits).any(-1).all()


def test_a_clean_block_is_read_as_a_whole(make_model, make_batch):
    """Its first token sees its last one, which shows in the predictions of the next block."""
    model, batch = make_model(), make_batch()
    mask = model.attention_mask(batch.source_mask, 12, 8)[0, 0]
    num_source = batch.source_mask.shape[1]
    clean = mask[num_source + 12 :]
    block = torch.arange(8) // 4
    assert torch.equal(clean[:, num_source + 12 :], block[:, None] >= block)
    assert not clean[:, num_source : num_source + 12].any()
    source = mask[:num_source]
    assert torch.equal(source[:, :num_source], batch.source_mask[0].expand(num_source, -1))
    assert not source[:, num_source:].any()


def test_padding_of_the_source_changes_nothing(make_model, make_batch):
    model, batch = make_model(), make_batch()
    wide = torch.full((len(batch), 5), 7)
    padded = replace(
        batch,
        source_ids=torch.cat((wide, batch.source_ids), dim=1),
        source_mask=torch.cat((torch.zeros_like(wide, dtype=torch.bool), batch.source_mask), 1),
    )
    noisy, clean = torch.full_like(batch.input_ids, MASK), batch.input_ids[:, :-4]
    logits = model.predict_logits(batch, noisy, clean)
    assert torch.allclose(model.predict_logits(padded, noisy, clean), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 0}, "`block_length` must be 1 or larger, got 0"),
        ({"min_mask_prob": 0.0}, "`min_mask_prob` must be above 0 .*, got 0.0 and 1.0"),
        ({"max_mask_prob": 1.5}, "`min_mask_prob` must be above 0 .*, got 0.001 and 1.5"),
    ],
)
def test_models_that_make_no_sense_are_refused(make_model, options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_texts_that_are_no_whole_blocks_are_refused(make_model, make_batch):
    with pytest.raises(ValueError, match="`block_length` must divide the length of the texts"):
        make_model(block_length=5).loss(make_batch())


def test_a_tiny_model_learns_its_sentences(make_model, make_batch, rows_of):
    model, batch = make_model(active=False, min_mask_prob=0.5), make_batch(num_rows=4)
    four_of_each = rows_of(batch, torch.arange(4).repeat(4))  # with masks of their own
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(four_of_each).backward()
        optimizer.step()
    ids, _ = model.generate_ids(batch, 12, None, sampler="first_hitting", temperature=0)
    assert torch.equal(ids * batch.attention_mask, batch.input_ids)
