from functools import partial

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from denoiser import LatentDenoiser
from denoiser.guiders import make_guider
from denoiser.infilling import KnownLatents, draw_known_mask, encode_known, predict
from denoiser.objective import denoising_loss
from denoiser.sampling import StepControl, denoise
from denoiser.schedulers import make_scheduler

NOTHING = {
    "known_latents": torch.zeros(4, 1, 8),
    "known_mask": torch.zeros(4, 1, dtype=torch.bool),
}


@pytest.fixture
def denoiser(make_denoiser):
    return make_denoiser(infill_prob=0.5).eval()


@pytest.fixture
def inputs():
    """The arguments of a call for four rows."""
    t = torch.tensor([0.2, 0.5, 0.9, 1.0])
    return (torch.randn(4, 5, 8), t, *NOTHING.values(), torch.ones(4, dtype=torch.bool), None)


@pytest.fixture
def known():
    """Known latents of four rows: none, some, all but one, all."""
    mask = torch.arange(5) < torch.tensor([[0], [2], [4], [5]])
    return KnownLatents(torch.randn(4, 5, 8), mask)


# The denoiser


def test_known_latents_come_out_as_they_are(denoiser, inputs, known):
    prediction = predict(denoiser, known, *inputs)
    assert torch.equal(prediction[known.mask], known.latents[known.mask])
    assert torch.isfinite(prediction).all()


def test_what_was_noisy_at_known_places_has_no_influence(denoiser, inputs, known):
    noisy = torch.where(known.mask[..., None], torch.randn(4, 5, 8), inputs[0])
    expected = predict(denoiser, known, *inputs)
    assert torch.equal(predict(denoiser, known, noisy, *inputs[1:]), expected)
    condition = torch.randn(4, 5, 8)
    other = torch.where(known.mask[..., None], torch.randn(4, 5, 8), condition)
    first, second = (predict(denoiser, known, *inputs[:5], part) for part in (condition, other))
    assert torch.equal(first, second)


def test_known_latents_steer_the_others(denoiser, inputs, known):
    expected = predict(denoiser, known, *inputs)
    other = KnownLatents(torch.randn(4, 5, 8), known.mask)
    changed = predict(denoiser, other, *inputs)
    is_same = torch.isclose(changed, expected, atol=1e-3).all(dim=2)
    assert is_same[0].all()
    assert not is_same[1:][~known.mask[1:]].any()


def test_clean_is_not_the_same_as_noisy(denoiser, inputs):
    """The same numbers at a place mean something else where they are known."""
    mask = torch.zeros(4, 5, dtype=torch.bool)
    plain = predict(denoiser, None, *inputs)
    nothing = predict(denoiser, KnownLatents(inputs[0], mask), *inputs)
    torch.testing.assert_close(nothing, plain)
    mask[:, 0] = True
    clean = predict(denoiser, KnownLatents(inputs[0], mask), *inputs)
    assert not torch.isclose(clean[:, 1:], plain[:, 1:], atol=1e-3).all(dim=2).any()


def test_a_denoiser_without_it_is_called_as_before(make_denoiser, inputs, known):
    plain = make_denoiser(active=False)
    assert plain.segment_embedding.weight.shape == (2, 32)
    assert torch.equal(predict(plain, known, *inputs), plain(*inputs))
    with pytest.raises(ValueError, match="`clean_mask` needs a denoiser with `infill_prob`"):
        plain(*inputs, clean_mask=known.mask)
    with pytest.raises(ValueError, match=r"`infill_prob` must be between 0 and 1, got 1\.5"):
        make_denoiser(infill_prob=1.5)


def test_saving_keeps_it(denoiser, tmp_path, inputs, known, assert_same_model):
    denoiser.save_pretrained(tmp_path)
    loaded = type(denoiser).from_pretrained(tmp_path)
    assert_same_model(loaded, denoiser)
    assert torch.equal(predict(loaded, known, *inputs), predict(denoiser, known, *inputs))


# The objective


@pytest.fixture
def make_loss():
    def make(denoiser, latents, known, self_condition_prob=0.0):
        return denoising_loss(
            denoiser,
            latents,
            torch.zeros(len(latents), 1, 8),
            torch.zeros(len(latents), 1, dtype=torch.bool),
            noise_shift=4.0,
            cond_drop_prob=0.0,
            self_condition_prob=self_condition_prob,
            known=known,
        )

    return make


def test_only_unknown_latents_are_compared(denoiser, known, make_loss):
    latents = torch.randn(4, 5, 8)
    losses = make_loss(denoiser, latents, known, self_condition_prob=0.5)
    error = (losses["pred_latents"] - latents).square().mean(dim=2)
    assert losses["loss"].item() == pytest.approx(error[~known.mask].mean().item(), rel=1e-5)
    torch.testing.assert_close(losses["row_error"][0], error[0].mean())
    torch.testing.assert_close(losses["row_error"][1], error[1, 2:].mean())
    torch.testing.assert_close(losses["row_error"][2], error[2, 4])
    assert losses["row_error"][3] == 0


def test_the_new_weights_are_trained(denoiser, known, make_loss):
    make_loss(denoiser.train(), torch.randn(4, 5, 8), known)["loss"].backward()
    assert denoiser.segment_embedding.weight.grad[2].abs().max() > 1e-5


def test_a_gap_is_learnt_from_what_stands_beside_it(make_denoiser, make_loss):
    """Second and third latents repeat the first: beside it there is nothing left to guess."""
    denoiser = make_denoiser(active=False, infill_prob=0.5)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=5e-3)

    def copies(num_rows):
        return torch.randn(num_rows, 1, 8).expand(-1, 3, -1).contiguous()

    def first_known(latents):
        mask = torch.zeros(latents.shape[:2], dtype=torch.bool)
        mask[:, 0] = True
        return KnownLatents(latents, mask)

    for _ in range(250):
        latents = copies(64)
        loss = make_loss(denoiser, latents, first_known(latents), self_condition_prob=0.5)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latents = copies(16)

    def error_from_noise(known):
        control = StepControl()
        control.clean = known
        sampled = denoise(
            denoiser.eval(),
            make_scheduler("euler", 4.0),
            ClassifierFreeGuidance(1.0),
            torch.randn(16, 3, 8),
            torch.zeros(16, 1, 8),
            torch.zeros(16, 1, dtype=torch.bool),
            4,
            control=control,
        )
        return (sampled - latents)[:, 1:].square().mean().item()

    assert error_from_noise(first_known(latents)) < 0.2
    assert error_from_noise(None) > 1.0  # nothing tells which of the texts is meant


# Sampling


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_known_latents_are_known_at_each_step_and_in_both_branches(
    denoiser, known, guidance_scale, monkeypatch
):
    calls, forward = [], type(denoiser).forward

    def record(self, noisy_latents, *inputs, clean_mask=None):
        calls.append((noisy_latents, clean_mask))
        return forward(self, noisy_latents, *inputs, clean_mask=clean_mask)

    monkeypatch.setattr(type(denoiser), "forward", record)
    control = StepControl()
    control.clean = known
    denoise(
        denoiser,
        make_scheduler("euler", 4.0),
        ClassifierFreeGuidance(guidance_scale),
        torch.randn(4, 5, 8),
        torch.randn(4, 2, 8),
        torch.ones(4, 2, dtype=torch.bool),
        3,
        control=control,
    )
    assert len(calls) == 3
    for noisy_latents, mask in calls:
        assert len(noisy_latents) == (4 if guidance_scale == 1 else 8)
        for part, part_mask in zip(noisy_latents.split(4), mask.split(4), strict=True):
            assert torch.equal(part_mask, known.mask)
            assert torch.equal(part[known.mask], known.latents[known.mask])


def test_a_weaker_denoiser_without_it_guides_one_with_it(denoiser, make_denoiser, known):
    control = StepControl()
    control.clean = known
    sampled = denoise(
        denoiser,
        make_scheduler("euler", 4.0),
        make_guider("autoguidance", 2.0, weak_denoiser=make_denoiser().eval()),
        torch.randn(4, 5, 8),
        *NOTHING.values(),
        3,
        control=control,
    )
    assert torch.isfinite(sampled).all()


# What is known in training


def test_known_parts_are_prefixes_suffixes_both_sides_and_single_latents():
    lengths = torch.randint(5, 9, (4000, 1))
    is_text = torch.arange(10) < lengths
    known = draw_known_mask(is_text, 1.0)
    changes = (known[:, 1:] != known[:, :-1]).sum(dim=1)
    starts, ends = known[:, 0], known[:, -1]
    shares = {
        "prefix": (starts & ~ends & (changes == 1)).float().mean().item(),
        "suffix": (~starts & ends & (changes == 1)).float().mean().item(),
        "both sides": (starts & ends & (changes == 2)).float().mean().item(),
        "scattered": (changes > 2).float().mean().item(),
    }
    assert min(shares.values()) > 0.08, shares
    behind = ~is_text
    for row in range(100):  # the length of a text is known or it is not
        assert known[row][behind[row]].unique().numel() == 1


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_a_share_of_the_rows_has_known_parts(prob):
    known = draw_known_mask(torch.ones(4000, 16, dtype=torch.bool), prob)
    share = known.any(dim=1).float().mean().item()
    assert 0.85 * prob - 0.03 < share <= prob + 0.03


def test_rows_of_a_single_latent_are_drawn_too():
    known = draw_known_mask(torch.tensor([[True, False], [True, True]]).repeat(50, 1), 1.0)
    assert known.shape == (100, 2)
    assert known.any()


def test_known_latents_give_nothing_of_the_rest_away(make_autoencoder, make_texts):
    autoencoder, batch = make_autoencoder(), make_texts()
    ids, attention_mask = batch["input_ids"], batch["attention_mask"]
    mask = draw_known_mask(autoencoder.latent_mask(attention_mask), 1.0)
    mask[0] = torch.tensor([True, False, True])
    encoded = encode_known(autoencoder, ids, attention_mask, mask)
    is_known = mask.repeat_interleave(4, dim=1)
    other_ids = torch.where(is_known, ids, torch.randint(3, 40, ids.shape))
    other_mask = torch.where(is_known, attention_mask, torch.rand(ids.shape) < 0.5)
    changed = encode_known(autoencoder, other_ids, other_mask, mask)
    torch.testing.assert_close(changed.latents[mask], encoded.latents[mask])
    whole = autoencoder.statistics.standardize(autoencoder.encode(ids, attention_mask))
    assert not torch.allclose(encoded.latents[mask], whole[mask], atol=1e-3)  # it sees less


def test_all_of_a_text_known_is_the_text(make_autoencoder, make_texts):
    autoencoder, batch = make_autoencoder(), make_texts()
    mask = torch.ones(8, 3, dtype=torch.bool)
    encoded = encode_known(autoencoder, *batch.values(), mask)
    whole = autoencoder.statistics.standardize(autoencoder.encode(*batch.values()))
    assert torch.equal(encoded.latents, whole)


# Training


@pytest.fixture
def module(make_lit_denoiser):
    toy = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2, "infill_prob": 0.5}
    return make_lit_denoiser(active=True, denoiser=partial(LatentDenoiser, **toy))


def test_training_sees_known_parts_and_validation_is_the_plain_one(module, make_texts, monkeypatch):
    batch = make_texts()
    masks, forward = [], LatentDenoiser.forward

    def record(self, *inputs, clean_mask=None):
        masks.append(clean_mask)
        return forward(self, *inputs, clean_mask=clean_mask)

    monkeypatch.setattr(LatentDenoiser, "forward", record)
    losses = module.train().loss(batch)
    open_error = (losses["pred_latents"] - losses["latents"]).square().mean(dim=2)[~masks[-1]]
    assert losses["loss"].item() == pytest.approx(open_error.mean().item(), rel=1e-5)
    assert masks[-1].any()
    assert torch.equal(masks[0], masks[1][: len(masks[0])])  # of the first prediction
    masks.clear()
    module.eval().loss(batch)
    assert masks == [None, None]


def test_validation_tells_the_loss_beside_known_parts(module, make_texts, validate):
    metrics = validate(module, make_texts())
    assert metrics["val/infill_loss"] > 0
    assert metrics["val/infill_loss"] != metrics["val/loss"]


def test_a_short_training_moves_all_weights(module, make_texts, fit):
    before = {name: value.clone() for name, value in module.denoiser.state_dict().items()}
    fit(module, make_texts(), max_steps=3)
    for name, value in module.denoiser.state_dict().items():
        assert not torch.equal(value, before[name]), name
