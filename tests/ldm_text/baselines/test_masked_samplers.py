"""Samplers with the exact denoiser of a Markov chain: the law of what they draw is known."""

import math
from itertools import combinations, pairwise, product

import pytest
import torch

from ldm_text.baselines.masked_samplers import SAMPLERS, equal_quotas, run_sampler
from ldm_text.baselines.token_predictor import TokenPredictor
from tests.ldm_text.baselines.markov_chain import MarkovChain, chi_square_p_value

MASK, S, V = 2, 3, 4
NUM_ROWS = 8192
FITS, DIFFERS = 1e-3, 1e-9  # p-values above and below which a test is decided

REMASKING = [
    ("remdm_cap", lambda largest: min(0.3, largest)),
    ("remdm_rescale", lambda largest: 0.3 * largest),
]


@pytest.fixture(scope="module")
def chain():
    return MarkovChain(S, V, MASK)


def make_predictor(chain, generator=None, **options):
    def predict(ids):
        return chain.masked_posterior(ids, MASK).log().float()

    return TokenPredictor(predict, MASK, generator, **options)


def draw(chain, name, num_inference_steps=None, num_rows=NUM_ROWS, temperature=1.0, **options):
    """Draw texts and return how often each was drawn."""
    predictor = make_predictor(chain, torch.Generator().manual_seed(0), temperature=temperature)
    masked = torch.full((num_rows, S), MASK)
    return chain.counts(run_sampler(name, predictor, masked, num_inference_steps, **options))


def on_texts(chain, law):
    """Arrange a law given as ``{ids: probability}`` in the order of the chain's texts."""
    assert sum(law.values()) == pytest.approx(1, abs=1e-9)
    return torch.tensor([law.get(tuple(ids), 0.0) for ids in chain.texts.tolist()]).double()


def law_on_a_grid(chain, num_steps, sigma_of):
    """Compute the law of ReMDM (Wang et al. 2025) by multiplying the matrices of its steps.

    ``sigma_of`` maps the largest probability of masking a token again to the one taken; with 0 this
    is the ancestral sampler.
    """
    states = torch.cartesian_prod(*[torch.arange(V)] * S)
    prediction = chain.masked_posterior(states, MASK)
    is_masked = (states == MASK)[..., None]
    seen = torch.nn.functional.one_hot(states, V).double()
    mask = torch.nn.functional.one_hot(torch.tensor(MASK), V).double()
    law = (states == MASK).all(dim=1).double()
    for step in range(num_steps):
        alpha_t, alpha_s = step / num_steps, (step + 1) / num_steps
        sigma = sigma_of(min(1, (1 - alpha_s) / alpha_t) if alpha_t else 1)
        reveal = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        after = torch.where(
            is_masked,
            reveal * prediction + (1 - reveal) * mask,
            (1 - sigma) * seen + sigma * mask,
        )
        law = law @ after[:, torch.arange(S), states].prod(dim=-1)
    return on_texts(chain, dict(zip(map(tuple, states.tolist()), law.tolist(), strict=True)))


def law_of_choices(chain, rules, temperature=1.0):
    """Compute the law of a sampler that never masks again, by going through all its draws.

    Each rule stands for a call; it maps the masked positions, their tokens and the predicted
    probabilities to sets of positions to reveal, each with its probability.
    """
    law = {(MASK,) * S: 1.0}
    for rule in rules:
        after = {}
        for state, weight in law.items():
            probs = chain.masked_posterior(torch.tensor([state]), MASK)[0]
            drawn_from = (probs.log() / temperature).softmax(dim=-1).tolist()
            probs = probs.tolist()
            masked = [place for place in range(S) if state[place] == MASK]
            for tokens in product(chain.token_ids.tolist(), repeat=len(masked)):
                drawn = dict(zip(masked, tokens, strict=True))
                chance = weight * math.prod(drawn_from[place][drawn[place]] for place in masked)
                for revealed, share in rule(masked, drawn, probs):
                    new = tuple(drawn[p] if p in revealed else state[p] for p in range(S))
                    after[new] = after.get(new, 0.0) + chance * share
        law = after
    return on_texts(chain, law)


def any_of(quota):
    def rule(masked, drawn, probs):
        sets = list(combinations(masked, quota))
        return [(chosen, 1 / len(sets)) for chosen in sets]

    return rule


def surest_of(quota, block=range(S)):
    def rule(masked, drawn, probs):
        places = [place for place in masked if place in block]
        places.sort(key=lambda place: -probs[place][drawn[place]])
        return [(places[:quota], 1.0)]

    return rule


def low_entropies(bound, calls_left):
    def rule(masked, drawn, probs):
        entropy = {p: -sum(q * math.log(q) for q in probs[p] if q > 0) for p in masked}
        places = sorted(masked, key=entropy.get)
        num_revealed = math.ceil(len(masked) / calls_left)
        while num_revealed < len(places) and sum(map(entropy.get, places[:num_revealed])) <= bound:
            num_revealed += 1
        return [(places[:num_revealed], 1.0)]

    return rule


def test_counts_of_true_texts_fit_the_chain(chain):
    texts = chain.sample(NUM_ROWS, torch.Generator().manual_seed(0))
    assert chi_square_p_value(chain.counts(texts), chain.probs) > FITS


@pytest.mark.parametrize("num_steps", [1, 2])
def test_few_ancestral_steps_have_the_known_bias(chain, num_steps):
    counts = draw(chain, "ancestral", num_steps)
    biased = law_on_a_grid(chain, num_steps, lambda largest: 0.0)
    assert chi_square_p_value(counts, biased) > FITS
    assert chi_square_p_value(counts, chain.probs) < DIFFERS


def test_one_step_draws_from_the_product_of_the_marginals(chain):
    marginals = chain.masked_posterior(torch.full((1, S), MASK))[0]
    law = marginals[torch.arange(S), chain.texts].prod(dim=-1)
    assert torch.allclose(law_on_a_grid(chain, 1, lambda largest: 0.0), law)
    for name in ("ancestral", "random", "remdm_cap", "confidence", "entropy_bound"):
        assert chi_square_p_value(draw(chain, name, 1), law) > FITS


def test_the_bias_of_ancestral_steps_falls_as_their_number_rises(chain):
    laws = [law_on_a_grid(chain, num_steps, lambda largest: 0.0) for num_steps in (64, 128)]
    coarse, fine = (0.5 * (law - chain.probs).abs().sum().item() for law in laws)
    assert coarse / fine == pytest.approx(2, abs=0.1)
    assert fine < 0.01


def test_many_ancestral_steps_draw_from_the_chain(chain):
    assert chi_square_p_value(draw(chain, "ancestral", 128), chain.probs) > FITS


def test_first_hitting_is_exact(chain):
    assert chi_square_p_value(draw(chain, "first_hitting", num_rows=30000), chain.probs) > FITS


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_random_order_is_exact_only_one_by_one(chain, num_steps):
    counts = draw(chain, "random", num_steps)
    law = law_of_choices(chain, [any_of(quota) for quota in equal_quotas(S, num_steps)])
    assert torch.allclose(law, chain.probs) is (num_steps == S)
    assert chi_square_p_value(counts, law) > FITS
    if num_steps < S:
        assert chi_square_p_value(counts, chain.probs) < DIFFERS


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_confidence_keeps_the_surest_tokens(chain, num_steps, temperature):
    counts = draw(chain, "confidence", num_steps, temperature=temperature)
    rules = [surest_of(quota) for quota in equal_quotas(S, num_steps)]
    assert chi_square_p_value(counts, law_of_choices(chain, rules, temperature)) > FITS
    assert chi_square_p_value(counts, chain.probs) < DIFFERS


@pytest.mark.parametrize("sampler", ["confidence", "entropy_bound"])
@pytest.mark.parametrize("options", [{"top_p": 0.5}, {"temperature": 0.0}])
def test_certainty_is_judged_before_temperature_and_cut(sampler, options):
    """Both leave one certain token at each position, yet the second is the surer one."""
    log_probs = torch.tensor([[[0.55, 0.25, 0.0, 0.2], [0.15, 0.6, 0.0, 0.25]]]).log()
    inputs = []
    predictor = TokenPredictor(lambda ids: inputs.append(ids) or log_probs, MASK, None, **options)
    ids = run_sampler(sampler, predictor, torch.full((1, 2), MASK), 2)
    assert inputs[1].tolist() == [[MASK, 1]]
    assert ids.tolist() == [[0, 1]]


def test_confidence_goes_block_after_block():
    """Blocks of one token are the chain itself, from left to right."""
    chain = MarkovChain(S, V, MASK)
    counts = draw(chain, "confidence", 3, block_length=1)
    assert chi_square_p_value(counts, chain.probs) > FITS


@pytest.mark.parametrize("bound", [0.0, 0.9, 1.0, 100.0])
@pytest.mark.parametrize("max_calls", [2, 3])
def test_entropy_bound_reveals_what_is_nearly_independent(chain, bound, max_calls):
    counts = draw(chain, "entropy_bound", max_calls, entropy_bound=bound)
    rules = [low_entropies(bound, calls_left) for calls_left in range(max_calls, 0, -1)]
    law = law_of_choices(chain, rules)
    assert chi_square_p_value(counts, law) > FITS
    if bound == 0 and max_calls == S:
        assert torch.allclose(law, chain.probs)


def test_entropy_bound_calls_the_network_only_as_often_as_it_needs(chain):
    for bound, num_calls in [(0.0, 3), (100.0, 1)]:
        predictor = make_predictor(chain)
        run_sampler("entropy_bound", predictor, torch.full((5, S), MASK), None, entropy_bound=bound)
        assert predictor.num_calls == num_calls


@pytest.mark.parametrize(("name", "sigma_of"), REMASKING)
@pytest.mark.parametrize("num_steps", [2, 5, 16])
def test_remasking_follows_the_law_of_its_paper(chain, name, sigma_of, num_steps):
    counts = draw(chain, name, num_steps, eta=0.3)
    assert chi_square_p_value(counts, law_on_a_grid(chain, num_steps, sigma_of)) > FITS


def test_remasking_is_no_ancestral_sampling(chain):
    """Given an exact denoiser it only adds to the bias: 10 instead of 7 % in total variation."""
    counts = draw(chain, "remdm_cap", 5, num_rows=40000, eta=0.9)
    law = law_on_a_grid(chain, 5, lambda largest: min(0.9, largest))
    plain = law_on_a_grid(chain, 5, lambda largest: 0.0)
    assert chi_square_p_value(counts, law) > FITS
    assert chi_square_p_value(counts, plain) < DIFFERS
    bias, plain_bias = (0.5 * (x - chain.probs).abs().sum().item() for x in (law, plain))
    assert plain_bias < 0.07 < 0.1 < bias


@pytest.mark.parametrize(("name", "sigma_of"), REMASKING)
def test_visible_tokens_are_masked_again_at_the_rate_of_their_paper(chain, name, sigma_of):
    inputs = []
    predictor = make_predictor(chain, torch.Generator().manual_seed(0))
    predict = predictor.predict
    predictor.predict = lambda ids: inputs.append(ids) or predict(ids)
    run_sampler(name, predictor, torch.full((NUM_ROWS, S), MASK), 5, eta=0.3)
    assert len(inputs) == 5
    for step, (before, after) in enumerate(pairwise(inputs[1:]), start=1):
        rate = (after == MASK)[before != MASK].double().mean().item()
        sigma = sigma_of(min(1, (5 - step - 1) / step))  # alpha_t is step / 5
        assert rate == pytest.approx(sigma, abs=4 * (sigma / (before != MASK).sum().item()) ** 0.5)
        assert (after == MASK).double().mean().item() == pytest.approx(1 - (step + 1) / 5, abs=0.02)


@pytest.mark.parametrize("name", ["ancestral", "random", "remdm_cap", "remdm_rescale"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_independent_tokens_can_be_drawn_in_any_number_of_steps(name, num_steps):
    chain = MarkovChain(S, V, MASK, independent=True)
    options = {"eta": 0.5} if name.startswith("remdm") else {}
    assert chi_square_p_value(draw(chain, name, num_steps, **options), chain.probs) > FITS


def test_remasking_with_strength_zero_is_ancestral(chain):
    texts = []
    for name, options in [("ancestral", {}), ("remdm_cap", {"eta": 0.0})]:
        predictor = make_predictor(chain, torch.Generator().manual_seed(0))
        texts.append(run_sampler(name, predictor, torch.full((50, S), MASK), 7, **options))
    assert torch.equal(*texts)


def test_network_is_not_called_where_no_token_changed(chain):
    inputs = []
    predictor = make_predictor(chain, torch.Generator().manual_seed(0))
    predict = predictor.predict
    predictor.predict = lambda ids: inputs.append(ids.tolist()) or predict(ids)
    run_sampler("ancestral", predictor, torch.full((1, S), MASK), 100)
    assert predictor.num_calls == len(inputs) <= S
    assert all(before != after for before, after in pairwise(inputs))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_mask_is_left(chain, name):
    for num_steps in range(1, S + 1):
        steps = S if name == "first_hitting" else num_steps
        masked = torch.full((64, S), MASK)
        assert not (run_sampler(name, make_predictor(chain), masked, steps) == MASK).any()


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "first_hitting"])
def test_temperature_and_top_p_leave_the_likeliest_tokens(chain, name):
    """In one step all tokens are those of the highest marginal probability."""
    best = chain.masked_posterior(torch.full((1, S), MASK)).argmax(dim=-1)
    for options in ({"temperature": 0.0}, {"top_p": 1e-6}):
        predictor = make_predictor(chain, **options)
        ids = run_sampler(name, predictor, torch.full((4, S), MASK), 1)
        assert torch.equal(ids, best.expand(4, -1))


def test_quotas_are_equal_and_complete():
    assert equal_quotas(64, 16) == [4] * 16
    assert equal_quotas(7, 3) == [3, 2, 2]


@pytest.mark.parametrize(
    ("name", "num_steps", "options", "message"),
    [
        ("gibbs", None, {}, "`sampler` must be one of ancestral, first_hitting, .*, got 'gibbs'"),
        ("ancestral", 0, {}, "`num_inference_steps` must be between 1 and 1000, got 0"),
        ("ancestral", None, {"eta": 0.1}, "`eta` has no effect with the sampler 'ancestral'"),
        ("remdm_cap", None, {"block_length": 3}, "`block_length` has no effect"),
        ("remdm_cap", None, {"eta": 1.5}, "`eta` must be between 0 and 1, got 1.5"),
        ("confidence", None, {"entropy_bound": 1.0}, "`entropy_bound` has no effect"),
        ("confidence", None, {"block_length": 2}, "`block_length` must divide .*, 3, got 2"),
        ("confidence", 2, {"block_length": 1}, "must be a multiple of the number of blocks, 3"),
        ("entropy_bound", None, {"entropy_bound": -1.0}, "`entropy_bound` must be 0 or larger"),
        ("first_hitting", 2, {}, "`num_inference_steps` has no effect .* 3 tokens.*got 2"),
        ("random", 4, {}, "`num_inference_steps` must be at most .*, 3, got 4"),
        ("confidence", 4, {}, "`num_inference_steps` must be at most .*, 3, got 4"),
        ("entropy_bound", 4, {}, "`num_inference_steps` must be at most .*, 3, got 4"),
    ],
)
def test_options_out_of_range_or_without_effect_are_refused(
    chain, name, num_steps, options, message
):
    with pytest.raises(ValueError, match=message):
        run_sampler(name, make_predictor(chain), torch.full((1, S), MASK), num_steps, **options)
