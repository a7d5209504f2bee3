import math
from dataclasses import replace

import pytest
import torch

from ldm_text.baselines import AutoregressiveModel, autoregressive_sampling
from ldm_text.baselines.sequences import TokenBatch

VOCAB_SIZE, PAD, END, MASK = 40, 0, 1, 2


def seeded(num_rows, seed):
    return [torch.Generator().manual_seed(1000 * seed + row) for row in range(num_rows)]


@pytest.fixture
def make_model(activate):
    def make(active=True, **options):
        sizes = {"vocab_size": VOCAB_SIZE, "hidden_dim": 32, "num_layers": 2, "num_heads": 2}
        model = AutoregressiveModel(**sizes | options).eval()
        return activate(model) if active else model

    return make


def test_a_fresh_model_knows_nothing(make_model, make_batch):
    batch = make_batch()
    num_tokens = batch.attention_mask.sum(dim=1)
    nats = make_model(active=False).negative_log_likelihood(batch)
    # Pad and mask can never come next.
    assert torch.allclose(nats, num_tokens * math.log(VOCAB_SIZE - 2), rtol=1e-6)


def test_loss_is_the_mean_over_real_tokens(make_model, make_batch):
    model, batch = make_model(), make_batch()
    nats = model.negative_log_likelihood(batch)
    assert torch.allclose(model.loss(batch), nats.sum() / batch.attention_mask.sum())


def test_likelihoods_of_all_continuations_sum_to_one(make_model, prompts):
    """Every text of two tokens, and the empty one, is an event; together they are all there is."""
    model = make_model()
    row = TokenBatch(
        prompts.source_ids[:1], prompts.source_mask[:1], torch.empty(0), torch.empty(0)
    )
    tokens = [token for token in range(VOCAB_SIZE) if token not in (PAD, MASK)]
    texts = torch.tensor([(a, b) for a in tokens if a != END for b in tokens] + [(END, PAD)])
    batch = TokenBatch(
        row.source_ids.expand(len(texts), -1),
        row.source_mask.expand(len(texts), -1),
        texts,
        texts != PAD,
    )
    total = (-model.negative_log_likelihood(batch).double()).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("bidirectional_source", [False, True])
def test_a_token_sees_what_is_before_it_and_nothing_behind(
    make_model, make_batch, bidirectional_source
):
    model, batch = make_model(bidirectional_source=bidirectional_source), make_batch()
    logits = model.text_logits(batch)
    ids = batch.input_ids.clone()
    ids[:, 5] = 3 + (ids[:, 5] + 1) % 30
    changed = model.text_logits(replace(batch, input_ids=ids))
    assert torch.equal(changed[:, :6], logits[:, :6])
    assert not torch.allclose(changed[:, 6:], logits[:, 6:])
    source_ids = batch.source_ids.clone()
    source_ids[:, -2] = 3 + (source_ids[:, -2] + 1) % 30
    changed = model.text_logits(replace(batch, source_ids=source_ids))
    assert not torch.allclose(changed[:, :1], logits[:, :1])


def test_only_a_bidirectional_source_is_read_backwards(make_model, make_batch):
    batch = make_batch()
    for bidirectional_source in (False, True):
        seen = make_model(bidirectional_source=bidirectional_source).attention_mask(
            batch.source_mask, 3
        )
        first_real = int(batch.source_mask[0].float().argmax())
        assert bool(seen[0, 0, first_real, first_real + 1]) is bidirectional_source
        assert not seen[0, 0, 8, 9]


def test_padding_of_the_source_changes_nothing(make_model, make_batch):
    model, batch = make_model(), make_batch()
    wide = torch.full((len(batch), 5), 7)
    padded = replace(
        batch,
        source_ids=torch.cat((wide, batch.source_ids), dim=1),
        source_mask=torch.cat((torch.zeros_like(wide, dtype=torch.bool), batch.source_mask), 1),
    )
    assert torch.allclose(model.text_logits(batch), model.text_logits(padded), atol=1e-5)


@pytest.mark.parametrize("bidirectional_source", [False, True])
def test_cached_and_uncached_generation_agree(
    make_model, prompts, row_generators, bidirectional_source
):
    model = make_model(bidirectional_source=bidirectional_source)
    ids, calls = model.generate_ids(prompts, 12, row_generators(5))
    uncached, _ = model.generate_ids(prompts, 12, row_generators(5), use_cache=False)
    assert torch.equal(ids, uncached)
    assert calls <= 12
    assert len(set(map(tuple, ids.tolist()))) == 5


@pytest.mark.parametrize("use_cache", [True, False])
def test_texts_that_have_ended_leave_the_batch(make_model, prompts, monkeypatch, use_cache):
    """They take no more time, and the others come out as they would beside them."""
    model, ids, num_rows = make_model(), [], []
    token_logits = model.token_logits

    def sooner_ended(hidden):
        logits = token_logits(hidden)
        num_rows[-1].append(len(logits))
        logits[:, END] += 2.5
        return logits

    monkeypatch.setattr(model, "token_logits", sooner_ended)
    for share in (0.0, 0.75, 1.0):
        num_rows.append([])
        monkeypatch.setattr(autoregressive_sampling, "SHARE_THAT_STAYS", share)
        for make_source in (torch.Generator().manual_seed, lambda seed: seeded(5, seed)):
            ids.append(model.generate_ids(prompts, 12, make_source(1), use_cache=use_cache)[0])
    assert torch.equal(ids[0], ids[2])
    assert torch.equal(ids[0], ids[4])
    assert torch.equal(ids[1], ids[3])
    assert torch.equal(ids[1], ids[5])
    assert set(num_rows[0]) == {5}
    assert sum(num_rows[0]) > sum(num_rows[1]) >= sum(num_rows[2])


def test_cached_logits_are_those_of_one_pass(make_model, prompts, monkeypatch):
    model, steps = make_model(), []
    monkeypatch.setattr(autoregressive_sampling, "SHARE_THAT_STAYS", 0.0)  # all rows to the end
    token_logits = model.token_logits
    monkeypatch.setattr(
        model, "token_logits", lambda hidden: steps.append(token_logits(hidden)) or steps[-1]
    )
    ids, _ = model.generate_ids(prompts, 12, torch.Generator().manual_seed(0), temperature=0)
    cached = torch.stack(steps, dim=1)
    batch = replace(prompts, input_ids=ids, attention_mask=ids != PAD)
    at_once = model.text_logits(batch)[:, : cached.shape[1]]
    real = batch.attention_mask[:, : cached.shape[1]]
    possible = at_once.isfinite()[real]
    assert (cached[real] - at_once[real])[possible].abs().max() < 1e-4


def test_a_row_is_the_same_alone_or_in_any_batch(make_model, prompts, row_generators):
    model = make_model()
    ids, _ = model.generate_ids(prompts, 12, row_generators(5))
    for row in range(5):
        alone = TokenBatch(*(getattr(prompts, name)[row : row + 1] for name in vars(prompts)))
        text, _ = model.generate_ids(alone, 12, row_generators(5)[row : row + 1])
        assert torch.equal(text[0], ids[row])


def test_generation_draws_from_the_model(make_model, prompts):
    """First tokens follow the probabilities of the first step: chi-square at 37 degrees."""
    model, num_draws = make_model(), 4000
    row = TokenBatch(*(getattr(prompts, name)[:1] for name in vars(prompts)))
    text = torch.full((1, 1), END)
    logits = model.text_logits(replace(row, input_ids=text, attention_mask=text > 0))
    expected = num_draws * logits[0, 0].double().softmax(-1)
    many = TokenBatch(
        *(getattr(row, name).expand(num_draws, -1) for name in ("source_ids", "source_mask")),
        row.input_ids.expand(num_draws, -1),
        row.attention_mask.expand(num_draws, -1),
    )
    ids, _ = model.generate_ids(many, 1, torch.Generator().manual_seed(0))
    counts = torch.bincount(ids[:, 0], minlength=VOCAB_SIZE)
    possible = expected > 0
    statistic = ((counts - expected) ** 2 / expected)[possible].sum()
    assert statistic < 69.3  # the 0.1 % point
    assert counts[~possible].sum() == 0


def test_temperature_zero_takes_the_likeliest_token(make_model, prompts):
    model = make_model()
    ids, _ = model.generate_ids(prompts, 6, None, temperature=0)
    batch = replace(prompts, input_ids=ids, attention_mask=ids != PAD)
    best = model.text_logits(batch).argmax(dim=-1)
    assert torch.equal(best[batch.attention_mask], ids[batch.attention_mask])
    narrow, _ = model.generate_ids(prompts, 6, None, top_p=1e-6)
    assert torch.equal(narrow, ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 4}, "`num_inference_steps` has no effect"),
        ({"temperature": -1.0}, "`temperature` must be 0 or larger and finite, got -1.0"),
        ({"top_p": 0.0}, "`top_p` must be larger than 0 and at most 1, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(make_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        make_model().generate_ids(prompts, 4, None, **options)


def test_a_tiny_model_learns_its_sentences(make_model, make_batch):
    model, batch = make_model(active=False), make_batch(num_rows=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    ids, _ = model.generate_ids(batch, 12, None, temperature=0)
    assert torch.equal(ids * batch.attention_mask, batch.input_ids)
