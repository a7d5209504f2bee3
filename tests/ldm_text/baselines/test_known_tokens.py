"""Generation with some tokens known: what all generators promise, and what single families do."""

from dataclasses import replace

import pytest
import torch

from ldm_text.baselines.masked_samplers import SAMPLERS, run_sampler, shared_bounds
from ldm_text.baselines.token_predictor import TokenPredictor
from ldm_text.known_tokens import KnownTokens, nothing_known
from tests.ldm_text.baselines.families import FAMILIES
from tests.ldm_text.baselines.markov_chain import MarkovChain, chi_square_p_value

S = 16  # tokens of a text of the toy pipelines
SOME_ROWS = (0, 1, 5)  # one with a known end, one with nothing known, one with known tokens
PROMPTS = ["name[The Mill]", "", None, "The Punter is a coffee shop."]
SAMPLER_OPTIONS = [
    *(("masked", {"sampler": name}) for name in SAMPLERS),
    ("masked", {"sampler": "confidence", "block_length": 4, "num_inference_steps": 8}),
    ("masked", {"sampler": "ancestral", "num_inference_steps": 3}),
    *(("block_diffusion", {"sampler": name}) for name in ("ancestral", "first_hitting")),
    *(("block_diffusion", {"sampler": name}) for name in ("random", "confidence")),
    ("block_diffusion", {"use_cache": False, "guidance_scale": 2.0}),
    ("autoregressive", {"use_cache": False}),
    ("embedding_diffusion", {"clamp_start": 0.5}),
]


def own_generators(count):
    return [torch.Generator().manual_seed(row) for row in range(count)]


def random_canvas(pipeline, num_rows, seed=0):
    """Know random tokens at random places, in some rows the end, in the second nothing at all."""
    source = torch.Generator().manual_seed(seed)
    tokenizer, shape = pipeline.tokenizer, (num_rows, S)
    ids = torch.randint(3, len(tokenizer), shape, generator=source)
    is_known = torch.rand(shape, generator=source) < torch.rand((num_rows, 1), generator=source)
    if pipeline.known_token_support == "prefix":
        is_known = is_known.long().cumprod(dim=1) > 0
    for row in range(0, num_rows, 3):
        end = int(torch.randint(4, S, (), generator=source))
        ids[row, end], ids[row, end + 1 :] = tokenizer.eos_token_id, tokenizer.pad_token_id
        is_known[row, end:] = True
    is_known[1] = False
    return KnownTokens(ids, is_known)


def assert_kept(sequences, known, tokenizer):
    """Assert that known tokens came out; an end stands as a pad token, as in every output."""
    expected = known.ids.masked_fill(known.ids == tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert torch.equal(sequences[known.is_known], expected[known.is_known])


@pytest.mark.parametrize("seed", range(2))
def test_known_tokens_come_out_exactly(generator, seed):
    known = random_canvas(generator, 8, seed)
    output = generator.generate(PROMPTS * 2, 2, own_generators(16), known_tokens=known)
    assert known.is_known.any()
    assert_kept(output.sequences, known.repeat(2), generator.tokenizer)
    is_pad = output.sequences == generator.tokenizer.pad_token_id
    assert (is_pad.diff(dim=1).int() >= 0).all()


@pytest.mark.parametrize(("family", "options"), SAMPLER_OPTIONS)
def test_every_sampler_keeps_known_tokens_whatever_the_batch(make_token_pipeline, family, options):
    pipeline = make_token_pipeline(family)
    known = random_canvas(pipeline, 8)
    output = pipeline.generate(PROMPTS * 2, 1, own_generators(8), known_tokens=known, **options)
    assert_kept(output.sequences, known, pipeline.tokenizer)
    for row in SOME_ROWS:
        source = own_generators(8)[row : row + 1]
        alone = pipeline.generate(
            [(PROMPTS * 2)[row]], 1, source, known_tokens=known.select([row]), **options
        )
        assert torch.equal(alone.sequences[0], output.sequences[row])


def test_a_row_with_known_tokens_is_the_same_alone_or_in_any_batch(generator):
    known = random_canvas(generator, 8)
    texts = generator.generate(PROMPTS * 2, 1, own_generators(8), known_tokens=known).texts
    for row in SOME_ROWS:
        source, own = own_generators(8)[row : row + 1], known.select([row])
        alone = generator.generate([(PROMPTS * 2)[row]], 1, source, known_tokens=own)
        assert alone.texts == [texts[row]]


def test_with_nothing_known_nothing_changes(generator):
    nothing = nothing_known(4, S)
    for make_source in (lambda: own_generators(4), lambda: torch.Generator().manual_seed(0)):
        plain = generator.generate(PROMPTS, 1, make_source())
        same = generator.generate(PROMPTS, 1, make_source(), known_tokens=nothing)
        assert torch.equal(plain.sequences, same.sequences)
        assert plain.num_network_calls == same.num_network_calls


def test_forbidden_tokens_never_come_out(generator):
    is_forbidden = torch.rand(len(generator.tokenizer)) < 0.9
    is_forbidden[:3] = False
    nothing = replace(nothing_known(4, S), forbidden=is_forbidden)
    ids = generator.generate(PROMPTS, 4, own_generators(16), known_tokens=nothing).sequences
    assert not is_forbidden[ids].any()
    known = replace(random_canvas(generator, 4), forbidden=is_forbidden)
    ids = generator.generate(PROMPTS, 4, own_generators(16), known_tokens=known).sequences
    assert_kept(ids, known.repeat(4), generator.tokenizer)
    assert not is_forbidden[ids][~known.repeat(4).is_known].any()


def test_choices_are_kept_to(generator):
    choices = torch.zeros(2, len(generator.tokenizer), dtype=torch.bool)
    choices[0, 10:14], choices[1, 20:22] = True, True
    choice = torch.full((4, S), -1)
    choice[:, 0], choice[:, 1] = 1, 0
    known = replace(nothing_known(4, S), choices=choices, choice=choice)
    ids = generator.generate(PROMPTS, 1, own_generators(4), known_tokens=known).sequences
    assert ((ids[:, 0] >= 20) & (ids[:, 0] < 22) & (ids[:, 1] >= 10) & (ids[:, 1] < 14)).all()


@pytest.mark.parametrize("length", [0, 1, 7, S - 1])
def test_a_known_end_sets_the_length(generator, length):
    known, tokenizer = nothing_known(4, S), generator.tokenizer
    known.ids[:, length], known.ids[:, length + 1 :] = tokenizer.eos_token_id, 0
    known.is_known[:, length:] = True
    ids = generator.generate(PROMPTS, 2, own_generators(8), known_tokens=known).sequences
    assert ((ids != tokenizer.pad_token_id).sum(dim=1) == length).all()


def test_known_pad_tokens_bound_the_length(generator):
    known, tokenizer = nothing_known(4, S), generator.tokenizer
    known.ids[:, 6:], known.is_known[:, 6:] = tokenizer.pad_token_id, True
    ids = generator.generate(PROMPTS, 2, own_generators(8), known_tokens=known).sequences
    assert ((ids != tokenizer.pad_token_id).sum(dim=1) <= 6).all()
    assert (ids[:, 6:] == tokenizer.pad_token_id).all()


def behind_a_gap(known, end):
    known.is_known[2, 5] = True
    known.ids[2, 5] = 9


def mask_as_a_token(known, end):
    known.is_known[:, 0], known.ids[:, 0] = True, 2


def text_behind_the_end(known, end):
    known.is_known[:, :3], known.ids[:, :3] = True, torch.tensor([9, end, 9])


@pytest.mark.parametrize(
    ("family", "fill", "message"),
    [
        ("autoregressive", behind_a_gap, "row 2 knows token 5 but only 0 tokens from the first"),
        ("masked", mask_as_a_token, "`known_tokens.ids` must not hold the mask token, 2"),
        ("masked", text_behind_the_end, "token of the text behind an end token"),
    ],
)
def test_tokens_that_cannot_be_kept_are_refused(make_token_pipeline, family, fill, message):
    pipeline, known = make_token_pipeline(family), nothing_known(4, S)
    fill(known, pipeline.tokenizer.eos_token_id)
    with pytest.raises(ValueError, match=message):
        pipeline.generate(PROMPTS, known_tokens=known)


def test_a_position_without_any_token_left_is_refused(make_token_pipeline):
    pipeline = make_token_pipeline("masked")
    is_forbidden = torch.ones(len(pipeline.tokenizer), dtype=torch.bool)
    is_forbidden[pipeline.tokenizer.eos_token_id] = False
    known = replace(nothing_known(1, S), forbidden=is_forbidden)
    assert pipeline.generate([None], known_tokens=known).texts == [""]
    known.is_known[:, 3], known.ids[:, 3] = True, 9  # the text cannot end before
    with pytest.raises(ValueError, match="leaves no token for an unknown position"):
        pipeline.generate([None], known_tokens=known)


def test_a_family_that_keeps_none_says_so(make_token_pipeline, monkeypatch):
    monkeypatch.setattr(FAMILIES["sedd"], "known_token_support", "none")
    pipeline = make_token_pipeline("sedd")
    with pytest.raises(ValueError, match="`known_tokens` has no effect: SEDDModel keeps none"):
        pipeline.generate(PROMPTS, known_tokens=random_canvas(pipeline, 4))


def test_an_autoregressive_prefix_is_read_in_one_call(make_token_pipeline):
    pipeline, known = make_token_pipeline(), nothing_known(4, S)
    known.ids[:, :11] = torch.randint(3, len(pipeline.tokenizer), (4, 11))
    known.is_known[:, :11] = True
    forbidden = torch.zeros(len(pipeline.tokenizer), dtype=torch.bool)
    forbidden[pipeline.tokenizer.eos_token_id] = True
    known = replace(known, forbidden=forbidden)  # all texts are of full length
    output = pipeline.generate(PROMPTS, 1, own_generators(4), known_tokens=known)
    assert output.num_network_calls == S - 11
    uncached = pipeline.generate(PROMPTS, 1, own_generators(4), known_tokens=known, use_cache=False)
    assert torch.equal(output.sequences, uncached.sequences)


def test_what_is_all_known_costs_no_call(make_token_pipeline):
    for family in ("autoregressive", "masked"):
        pipeline = make_token_pipeline(family)
        known = KnownTokens(torch.full((4, S), 9), torch.ones(4, S, dtype=torch.bool))
        output = pipeline.generate(PROMPTS, 1, own_generators(4), known_tokens=known)
        assert output.num_network_calls == 0
        assert (output.sequences == 9).all()


def test_tokens_are_shared_out_evenly_over_the_steps():
    bounds = shared_bounds(torch.tensor([7, 2, 0]), 3)[..., 0]
    assert bounds.tolist() == [[0, 0, 0], [3, 1, 0], [5, 2, 0], [7, 2, 0]]


MASK, NUM_ROWS = 2, 4096


@pytest.mark.parametrize("name", ["ancestral", "first_hitting", "random", "confidence"])
@pytest.mark.parametrize("canvas", [(0, MASK, MASK), (MASK, 3, MASK), (MASK, MASK, 1)])
def test_infilling_draws_from_the_conditional_law(name, canvas):
    """The oracle's conditional law comes out wherever tokens are revealed one after the other."""
    chain, generator = MarkovChain(len(canvas), 4, MASK), torch.Generator().manual_seed(0)
    canvas = torch.tensor(canvas)
    predictor = TokenPredictor(
        lambda ids: chain.masked_posterior(ids, MASK).log().float(), MASK, generator
    )
    options = {"block_length": 1} if name == "confidence" else {}
    steps = {"ancestral": 64, "first_hitting": None}.get(name, 3)
    ids = run_sampler(name, predictor, canvas.expand(NUM_ROWS, -1), steps, **options)
    fits = ((chain.texts == canvas) | (canvas == MASK)).all(dim=1)
    law = chain.probs * fits / chain.probs[fits].sum()
    assert chi_square_p_value(chain.counts(ids), law) > 1e-3
    assert chi_square_p_value(chain.counts(ids), chain.probs) < 1e-9


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_always_sees_what_is_known(name):
    """Remasking, too, leaves known tokens alone."""
    chain, inputs = MarkovChain(3, 4, MASK), []
    predictor = TokenPredictor(
        lambda ids: inputs.append(ids) or chain.masked_posterior(ids, MASK).log().float(),
        MASK,
        torch.Generator().manual_seed(0),
    )
    canvas = torch.tensor([MASK, 3, MASK]).expand(50, -1)
    options = {"eta": 0.9} if name.startswith("remdm") else {}
    run_sampler(name, predictor, canvas, 3, **options)
    assert all((ids[:, 1] == 3).all() for ids in inputs)


def test_known_tokens_of_uniform_diffusion_are_noised_to_the_level_of_the_step(
    make_token_pipeline, monkeypatch
):
    """At time ``t`` a known token is still itself with probability ``1 - t + t / K``."""
    model, seen = make_token_pipeline("uniform", num_train_steps=None).token_model, []
    predict = model.predict_logits

    def recorded(batch, noisy_ids, t):
        seen.append((float(t[0]), noisy_ids))
        return predict(batch, noisy_ids, t)

    monkeypatch.setattr(model, "predict_logits", recorded)
    pipeline = make_token_pipeline("uniform")
    pipeline.register_modules(token_model=model)
    known = nothing_known(1, S)
    known.ids[:, :8], known.is_known[:, :8] = torch.arange(10, 18), True
    pipeline.generate(
        [None], 400, torch.Generator().manual_seed(0), known_tokens=known, num_inference_steps=4
    )
    assert [t for t, _ in seen] == [1, 0.75, 0.5, 0.25]
    for t, noisy_ids in seen:
        share = (noisy_ids[:, :8] == known.ids[:, :8]).double().mean().item()
        assert share == pytest.approx(1 - t, abs=0.035)
