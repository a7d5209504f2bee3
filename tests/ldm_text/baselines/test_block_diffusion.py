import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ldm_text.baselines import block_sampling
from ldm_text.baselines.block_diffusion import BlockDiffusionModel
from ldm_text.baselines.sequences import TokenBatch
from tests.ldm_text.baselines.markov_chain import MarkovChain, chi_square_p_value

VOCAB_SIZE, PAD, END, MASK = 40, 0, 1, 2
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_dim": 32, "num_layers": 2, "num_heads": 2}


@pytest.fixture
def make_model(activate):
    def make(active=True, **options):
        model = BlockDiffusionModel(**SIZES | options).eval()
        return activate(model) if active else model

    return make


def rows_of(batch, rows):
    return TokenBatch(*(getattr(batch, name)[rows] for name in vars(batch)))


def same_source(prompts, texts, attention_mask=None):
    """Put texts behind the first of the prompts."""
    rows = rows_of(prompts, torch.zeros(len(texts), dtype=torch.long))
    mask = texts != PAD if attention_mask is None else attention_mask
    return replace(rows, input_ids=texts, attention_mask=mask)


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


def test_likelihoods_of_all_texts_sum_to_one_with_blocks_of_one_token(make_model, prompts):
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


def test_estimate_has_the_bound_of_both_orders_as_its_mean(make_model, prompts):
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


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "random", "confidence"])
def test_cached_and_uncached_generation_agree(
    make_model, prompts, row_generators, sampler, guidance_scale
):
    model = make_model()
    options = {"sampler": sampler, "guidance_scale": guidance_scale}
    ids, calls = model.generate_ids(prompts, 12, row_generators(5), **options)
    uncached, fewer = model.generate_ids(prompts, 12, row_generators(5), use_cache=False, **options)
    assert torch.equal(ids, uncached)
    assert calls == fewer + 3  # the source and two of the three blocks
    assert fewer <= 12
    assert len(set(map(tuple, ids.tolist()))) == 5


@pytest.mark.parametrize("block_length", [1, 4])
def test_cached_logits_are_those_of_one_pass(make_model, make_batch, block_length):
    model, batch = make_model(block_length=block_length), make_batch()
    noisy = batch.input_ids.masked_fill(torch.rand(batch.input_ids.shape) < 0.5, MASK)
    at_once = model.predict_logits(batch, noisy, batch.input_ids[:, :-block_length])
    reader = block_sampling.BlockReader(model, batch, 12)
    cached = []
    for start in range(0, 12, block_length):
        block = slice(start, start + block_length)
        cached.append(reader.logits(noisy[:, block]))
        assert torch.equal(cached[-1], reader.logits(noisy[:, block]))  # nothing noisy was kept
        reader.read(batch.input_ids[:, block])
    cached = torch.cat(cached, dim=1)
    possible = at_once.isfinite()
    assert torch.equal(cached.isfinite(), possible)
    assert (cached - at_once)[possible].abs().max() < 1e-4


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_a_row_is_the_same_alone_or_in_any_batch(make_model, prompts, row_generators, sampler):
    model = make_model()
    options = {"num_inference_steps": 8, "sampler": sampler}
    ids, _ = model.generate_ids(prompts, 12, row_generators(5), **options)
    for row in range(5):
        alone = rows_of(prompts, slice(row, row + 1))
        text, _ = model.generate_ids(alone, 12, row_generators(5)[row : row + 1], **options)
        assert torch.equal(text[0], ids[row])


def test_generation_stops_when_all_texts_have_ended(make_model, prompts):
    model = make_model(block_length=2)
    token_logits = model.token_logits

    def ending(hidden):
        logits = token_logits(hidden)
        logits[:, -1, END] = 1e3
        return logits

    model.token_logits = ending
    ids, calls = model.generate_ids(prompts, 12, None, sampler="first_hitting")
    assert ids.shape == (5, 12)
    assert (ids[:, 1] == END).all()
    assert (ids[:, 2:] == PAD).all()
    assert calls == 3  # the source and the two tokens of the first block


CHAIN = MarkovChain(num_tokens=4)


class ExactModel(BlockDiffusionModel):
    """Know the distribution of each token of a Markov chain given what is visible."""

    def predict_logits(self, batch, noisy_ids, clean_ids, start=0):
        logits = []
        length = self.config.block_length
        for first in range(0, noisy_ids.shape[1], length):
            seen = torch.full((len(noisy_ids), 4), MASK)
            end = start + first
            seen[:, :end] = clean_ids[:, :end]
            seen[:, end : end + length] = noisy_ids[:, first : first + length]
            posterior = CHAIN.masked_posterior(seen)[:, end : end + length]
            logits.append(F.pad(posterior, (0, 2)).log().float())
        return torch.cat(logits, dim=1)


@pytest.fixture
def make_exact_model():
    """Make a model of the chain; no token of it is taken for the end or for padding."""

    def make(block_length):
        ids = {"pad_token_id": 4, "end_token_id": 5}
        return ExactModel(**SIZES | {"vocab_size": 6}, **ids, block_length=block_length)

    return make


@pytest.mark.parametrize("block_length", [1, 2, 4])
def test_bound_of_the_exact_model_is_the_likelihood_of_each_text(
    make_exact_model, prompts, block_length
):
    model, num_draws = make_exact_model(block_length), 400
    texts = CHAIN.texts[::9]
    batch = same_source(
        prompts, texts.repeat(num_draws, 1), torch.ones(len(texts) * num_draws, 4) > 0
    )
    nats = model.negative_log_likelihood(batch, torch.Generator().manual_seed(0))
    nats = nats.view(num_draws, -1)
    error = nats.std(dim=0) / math.sqrt(num_draws) + 1e-5
    assert torch.all((nats.mean(dim=0) + CHAIN.probs[::9].log()).abs() < 4 * error)


@pytest.mark.parametrize(
    ("block_length", "sampler", "num_steps"),
    [
        (1, "ancestral", 4),
        (2, "first_hitting", None),
        (4, "first_hitting", None),
        (2, "ancestral", 100),
    ],
)
def test_the_exact_model_generates_its_distribution(
    make_exact_model, prompts, block_length, sampler, num_steps
):
    model = make_exact_model(block_length)
    rows = same_source(prompts, torch.zeros(2000, 0, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    options = {"sampler": sampler, "use_cache": False}
    ids, _ = model.generate_ids(rows, 4, generator, num_steps, **options)
    assert chi_square_p_value(CHAIN.counts(ids), CHAIN.probs) > 1e-3


def test_two_tokens_at_once_are_not_the_distribution(make_exact_model, prompts):
    """So the test above can fail: one step a block takes its tokens as independent."""
    rows = same_source(prompts, torch.zeros(2000, 0, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    ids, _ = make_exact_model(4).generate_ids(rows, 4, generator, 1, use_cache=False)
    assert chi_square_p_value(CHAIN.counts(ids), CHAIN.probs) < 1e-3


def test_guidance_leads_away_from_the_unconditional_prediction(make_model, prompts):
    model = make_model()
    reader = block_sampling.BlockReader(model, prompts, 12, guidance_scale=2.0)
    block = torch.full((5, 4), MASK)
    guided = reader.log_probs(block)
    cond = block_sampling.BlockReader(model, prompts, 12).log_probs(block)
    null = prompts.without_sources(torch.ones(5) > 0, END)
    uncond = block_sampling.BlockReader(model, null, 12).log_probs(block)
    expected = (2 * cond.exp().log() - uncond).nan_to_num(nan=-torch.inf).log_softmax(-1)
    assert torch.allclose(guided.exp(), expected.exp(), atol=1e-5)
    assert torch.allclose(guided[1], cond[1], atol=1e-5)  # a row without a source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 2}, "`num_inference_steps` must be at least the number of blocks"),
        ({"sampler": "euler"}, "`sampler` must be one of ancestral, .*, got 'euler'"),
        (
            {"sampler": "first_hitting", "num_inference_steps": 6},
            "`num_inference_steps` has no effect",
        ),
        ({"temperature": -1.0}, "`temperature` must be 0 or larger, got -1.0"),
        ({"num_tokens": 10}, "`block_length` must divide the length of the texts, got 4"),
    ],
)
def test_options_out_of_range_are_refused(make_model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        make_model().generate_ids(prompts, options.pop("num_tokens", 12), None, **options)


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


def test_a_tiny_model_learns_its_sentences(make_model, make_batch):
    model, batch = make_model(active=False, min_mask_prob=0.5), make_batch(num_rows=4)
    four_of_each = rows_of(batch, torch.arange(4).repeat(4))  # with masks of their own
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(four_of_each).backward()
        optimizer.step()
    ids, _ = model.generate_ids(batch, 12, None, sampler="first_hitting", temperature=0)
    assert torch.equal(ids * batch.attention_mask, batch.input_ids)
