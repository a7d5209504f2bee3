import pytest
import torch

from ldm_text.baselines import sampling
from ldm_text.baselines.sampling import draw_categories, token_probs, uniform
from tests.ldm_text.baselines.markov_chain import chi_square_p_value

CPU = torch.device("cpu")
LARGEST = 1 - 2.0**-53  # the largest number that `uniform` can draw


@pytest.fixture
def draw_at(monkeypatch):
    """Draw with given numbers in [0, 1) in place of random ones."""

    def draw(probs, numbers):
        monkeypatch.setattr(sampling, "uniform", lambda *_: numbers)
        return draw_categories(probs.expand(len(numbers), -1), None)

    return draw


def test_draws_follow_the_probabilities():
    probs = torch.tensor([0.5, 0.0, 0.25, 0.2, 0.05])
    drawn = draw_categories(probs.expand(20000, -1), torch.Generator().manual_seed(0))
    assert chi_square_p_value(torch.bincount(drawn, minlength=5), probs) > 1e-3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_token_of_probability_one_in_a_hundred_million_is_drawn(draw_at, place):
    """Of numbers spread evenly over [0, 1), a share of 1e-8 draws it; in float32 there is none.

    The numbers are a grid of step 1e-11 around the token's place in the distribution function.
    """
    rare = 1e-8
    probs = torch.full((3,), (1 - rare) / 2, dtype=torch.float64)
    probs[place] = rare
    start = probs[:place].sum()
    grid = start + torch.arange(-2000, 4000, dtype=torch.float64) * 1e-11
    grid = grid[(grid >= 0) & (grid < 1)]
    assert (draw_at(probs, grid) == place).sum().item() == pytest.approx(1000, abs=2)
    # A sum in float32 has lost the token, unless it is the first that is added.
    cumulative = probs.float().cumsum(dim=0)
    step = cumulative[place] - (cumulative[place - 1] if place else 0)
    assert (step > 0).item() is (place == 0)


def test_probabilities_in_float32_are_drawn_as_they_are(draw_at):
    """A network's probabilities are rounded each by itself, which costs rare tokens nothing."""
    probs = torch.tensor([1.0, 1e-8, 1e-8, 1e-8])
    grid = 1 - torch.arange(1, 3000, dtype=torch.float64) * 1e-11
    assert set(draw_at(probs, grid).tolist()) == {1, 2, 3}


def test_impossible_tokens_are_not_drawn_at_the_ends_of_the_range(draw_at):
    numbers = torch.tensor([0.0, LARGEST], dtype=torch.float64)
    for total in torch.rand(500, dtype=torch.float64) * 3 + 1e-3:
        probs = total * torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0, 0.0], dtype=torch.float64)
        assert draw_at(probs, numbers).tolist() == [1, 3]


def test_draws_have_the_shape_of_the_places():
    probs = torch.rand(2, 3, 5)
    assert draw_categories(probs, None).shape == (2, 3)
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    assert draw_categories(probs, generators).shape == (2, 3)


def test_uniform_numbers_are_float64_in_resolution():
    numbers = uniform((1000,), torch.Generator().manual_seed(0), CPU)
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() < 0.01 < 0.99 < numbers.max() < 1
    assert (numbers * 2**24 % 1 != 0).float().mean() > 0.99  # not float32 in disguise


def test_each_row_draws_from_its_own_generator():
    def generators(seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = uniform((3, 4), generators([7, 8, 9]), CPU)
    for row, seed in enumerate([7, 8, 9]):
        assert torch.equal(uniform((1, 4), generators([seed]), CPU)[0], together[row])
    assert len(together.unique()) == 12


def test_the_same_generator_gives_the_same_numbers():
    first, again = (uniform((4,), torch.Generator().manual_seed(5), CPU) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
    logits = torch.randn(2, 3, 7)
    probs = token_probs(logits, temperature)
    assert probs.dtype == torch.float64
    assert torch.allclose(probs, (logits.double() / temperature).softmax(dim=-1))


def test_the_smallest_temperature_leaves_the_likeliest_token():
    """Its quotients are infinite, and the weights were no numbers: a forbidden token was drawn."""
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [-3.0, -2.0, -torch.inf]])
    for top_p in (1.0, 0.5):
        probs = token_probs(logits, temperature=1e-320, top_p=top_p)
        assert probs.tolist() == [[0.0, 1.0, 0.0]] * 2


def test_temperature_zero_leaves_the_likeliest_token():
    logits = torch.randn(2, 3, 7)
    probs = token_probs(logits, temperature=0)
    assert torch.equal(probs.argmax(dim=-1), logits.argmax(dim=-1))
    assert torch.equal(probs.sum(dim=-1), torch.ones(2, 3, dtype=torch.float64))
    assert set(probs.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, 4), (0.97, 4), (0.9, 3), (0.7, 2), (0.45, 1), (1e-9, 1)]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
    probs = torch.tensor([0.15, 0.5, 0.05, 0.3], dtype=torch.float64)
    cut = token_probs(probs.log().expand(2, 3, -1), top_p=top_p)
    expected = probs.masked_fill(probs < probs.sort(descending=True).values[kept - 1], 0)
    assert torch.allclose(cut, (expected / expected.sum()).expand(2, 3, -1))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_p": 0.5}])
def test_forbidden_tokens_stay_impossible(options):
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    assert (token_probs(logits, **options)[0, [0, 3]] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "`temperature` must be 0 or larger and finite, got -0.1"),
        ({"temperature": torch.inf}, "`temperature` must be 0 or larger and finite, got inf"),
        ({"top_p": 0.0}, "`top_p` must be larger than 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "`top_p` must be larger than 0 and at most 1, got 1.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        token_probs(torch.zeros(1, 3), **options)
