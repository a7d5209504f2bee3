from functools import partial

import pytest
import torch

from autoencoder import TextAutoencoder
from autoencoder.training import reconstruction_loss
from denoiser import LatentDenoiser, LossOptions, PretrainedDenoiser
from denoiser.time_bins import BINS, means_by_time, sums_by_time


@pytest.fixture
def batch(make_pairs):
    return make_pairs() | {"row": torch.arange(8)}


@pytest.fixture
def module(make_lit_denoiser, batch):
    """With measured statistics: at mean 0 and deviation 1 standardizing would change nothing."""
    module = make_lit_denoiser(active=True)
    measure(module, batch)
    return module


def measure(module, batch):
    latents = module.autoencoder.encode(batch["input_ids"], batch["attention_mask"])
    module.autoencoder.statistics.measure(latents.flatten(0, 1))


def without_source(batch):
    return {name: values for name, values in batch.items() if not name.startswith("source")}


def copy_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_training_moves_the_denoiser_and_never_the_autoencoder(module, batch, fit):
    autoencoder, denoiser = copy_of(module.autoencoder), copy_of(module.denoiser)
    fit(module, batch, max_steps=3)
    for name, value in module.autoencoder.state_dict().items():
        assert torch.equal(value, autoencoder[name]), name
    assert all(weight.grad is None for weight in module.autoencoder.parameters())
    assert not module.autoencoder.training
    for name, value in module.denoiser.state_dict().items():
        assert not torch.equal(value, denoiser[name]), name


def test_autoencoder_stays_frozen_and_in_evaluation_mode(module):
    module.train()
    assert module.denoiser.training
    assert not any(part.training for part in module.autoencoder.modules())
    assert not any(weight.requires_grad for weight in module.autoencoder.parameters())


def test_optimizer_holds_the_denoiser_only(module, batch, fit):
    (optimizer,) = fit(module, batch, max_steps=1).optimizers
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert held == {id(weight) for weight in module.denoiser.parameters()}


@pytest.fixture
def pretrained(pretrained_folder):
    """A trained denoiser, and another copy of its autoencoder, rounded as in a release."""
    trained, again = (PretrainedDenoiser(str(pretrained_folder)) for _ in range(2))
    return trained, again.autoencoder.bfloat16().float()


def test_a_trained_denoiser_is_gone_on_with(make_lit_denoiser, pretrained, batch, fit):
    trained, autoencoder = pretrained
    before = copy_of(trained.denoiser)
    module = make_lit_denoiser(denoiser=trained, autoencoder=autoencoder)
    assert all(weight.requires_grad for weight in module.denoiser.parameters())
    start = copy_of(module.denoiser)
    assert all(torch.equal(start[name], before[name]) for name in before)
    fit(module, batch, max_steps=1)
    assert not torch.equal(module.denoiser.out.weight, before["out.weight"])


def test_a_trained_denoiser_beside_another_autoencoder_is_refused(
    make_lit_denoiser, make_autoencoder, pretrained
):
    """Its latents would have other meanings, and nothing but the texts would tell."""
    with pytest.raises(ValueError, match="was trained on latents of another autoencoder: name"):
        make_lit_denoiser(denoiser=pretrained[0], autoencoder=make_autoencoder())
    with pytest.raises(ValueError, match="was trained on latents of another autoencoder: name"):
        make_lit_denoiser(denoiser=pretrained[0], autoencoder=make_autoencoder(latent_dim=4))


def test_loss_halves_in_200_steps(make_lit_denoiser, batch, fit, validate):
    module = make_lit_denoiser(noise_shift=1.0)
    measure(module, batch)
    many = {name: values.repeat(4, *[1] * (values.ndim - 1)) for name, values in batch.items()}
    before = validate(module, many)["val/loss"]
    fit(module, many, max_steps=200, batch_size=32)
    assert validate(module, many)["val/loss"] < before / 2


def test_a_velocity_is_learned_too(make_lit_denoiser, batch, fit, validate):
    denoiser = partial(
        LatentDenoiser, hidden_dim=32, num_layers=2, num_heads=2, prediction_type="flow_prediction"
    )
    module = make_lit_denoiser(
        denoiser=denoiser, noise_shift=1.0, loss_options=LossOptions("velocity")
    )
    measure(module, batch)
    many = {name: values.repeat(4, *[1] * (values.ndim - 1)) for name, values in batch.items()}
    before = validate(module, many)["val/loss"]
    fit(module, many, max_steps=100, batch_size=32)
    assert validate(module, many)["val/loss"] < 0.75 * before


def test_a_flow_map_is_learned_by_distillation_alone(make_lit_denoiser, batch):
    denoiser = partial(LatentDenoiser, hidden_dim=32, num_layers=2, num_heads=2, flow_map=True)
    with pytest.raises(ValueError, match="`flow_map` is for students: use LitDistillation"):
        make_lit_denoiser(denoiser=denoiser).loss(batch)


def test_two_short_trainings_with_one_seed_give_equal_parameters(make_lit_denoiser, batch, fit):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        module = make_lit_denoiser()
        fit(module, batch, max_steps=4, batch_size=4, shuffle=True)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_latents_are_standardized(module, batch):
    latents = module.latents(batch, "input").flatten(0, 1)
    assert torch.allclose(latents.mean(0), torch.zeros(8), atol=1e-4)
    assert torch.allclose(latents.std(0), torch.ones(8), atol=1e-4)
    assert not latents.requires_grad


@pytest.mark.parametrize("cache_latents", [False, True])
def test_rows_of_several_documents_are_refused(make_lit_denoiser, batch, fit, cache_latents):
    """Each row would be encoded as one text, its sources among them."""
    packed = without_source(batch) | {"document_ids": torch.zeros(8, 3, dtype=torch.long)}
    module = make_lit_denoiser(cache_latents=cache_latents)
    with pytest.raises(ValueError, match=r"`data\.init_args\.layout` must be rows, .* got packed"):
        fit(module, packed, max_steps=2)


def loss_with(module, batch):
    torch.manual_seed(1)
    return module.loss(batch)["loss"]


def test_source_steers_the_loss_and_its_padding_does_not(make_lit_denoiser, batch):
    module = make_lit_denoiser(active=True, cond_drop_prob=0.0)
    ids, mask = batch["source_ids"], batch["source_mask"]
    other = torch.randint(3, 40, ids.shape)
    loss = loss_with(module, batch)
    assert torch.equal(
        loss_with(module, batch | {"source_ids": torch.where(mask, ids, other)}), loss
    )
    changed = loss_with(module, batch | {"source_ids": torch.where(mask, other, ids)})
    assert not torch.allclose(changed, loss, rtol=1e-3)


def test_a_batch_without_source_trains_the_null_only(module, batch):
    loss = loss_with(module, without_source(batch))
    loss.backward()
    assert module.denoiser.null_latent.grad.abs().max() > 1e-4
    module.cond_drop_prob = 1.0
    assert torch.allclose(loss_with(module, batch), loss, rtol=1e-5)


def test_a_batch_with_sources_trains_the_null_on_the_dropped_rows_only(module, batch):
    for prob, is_trained in ((0.0, False), (1.0, True)):
        module.zero_grad(set_to_none=True)
        module.cond_drop_prob = prob
        loss_with(module, batch).backward()
        assert module.denoiser.null_latent.grad.any() == is_trained


def test_validation_averages_over_rows_and_splits_by_time(module, batch, validate):
    metrics = validate(module, batch)  # batches of 5 and 3 rows
    errors, times = [], []
    for number, rows in enumerate((slice(5), slice(5, 8))):
        torch.manual_seed(number)
        with torch.no_grad():
            losses = module.loss({name: values[rows] for name, values in batch.items()})
        errors.append(losses["row_error"])
        times.append(losses["t"])
    errors, times = torch.cat(errors), torch.cat(times)
    assert metrics["val/loss"] == pytest.approx(errors.mean().item(), rel=1e-5)
    for low, name in zip((0, 0.25, 0.5, 0.75), BINS, strict=True):
        expected = errors[(times >= low) & (times < low + 0.25)].mean().item()
        assert metrics[f"val/loss_t_{name}"] == pytest.approx(expected, rel=1e-5)


def test_a_bin_of_time_without_rows_in_a_batch_counts_for_no_more_than_its_rows(
    module, batch, validate, monkeypatch
):
    """It was logged as a mean of no rows, NaN."""
    times = {5: torch.tensor([0.3, 0.3, 0.3, 0.8, 1.0]), 3: torch.tensor([0.6, 0.3, 0.6])}
    monkeypatch.setattr("denoiser.objective.sample_time", lambda num_rows, *_: times[num_rows])
    errors = []
    for number, rows in enumerate((slice(5), slice(5, 8))):
        torch.manual_seed(number)
        with torch.no_grad():
            losses = module.loss({name: values[rows] for name, values in batch.items()})
        errors.append(losses["row_error"])
    expected = means_by_time(sums_by_time(torch.cat([times[5], times[3]]), torch.cat(errors)))
    assert set(expected) == set(BINS[1:])
    flipped = {name: values.flip(0) for name, values in batch.items()}
    before, metrics = (validate(module, rows) for rows in (flipped, batch))
    assert before != metrics  # and yet the second validation begins anew
    found = {name: value for name, value in metrics.items() if "loss_t_" in name}
    means = {f"val/loss_t_{name}": mean.item() for name, mean in expected.items()}
    assert found == pytest.approx(means, rel=1e-5)


def test_the_decoder_loss_is_that_of_all_tokens(module, batch, validate):
    """Nats a token: the short texts of a batch must not count as much as the long ones."""
    found = validate(module, batch)["val/decoder_loss"]  # batches of 5 and 3 rows
    logits = []
    for number, rows in enumerate((slice(5), slice(5, 8))):
        torch.manual_seed(number)
        with torch.no_grad():
            losses = module.loss({name: values[rows] for name, values in batch.items()})
            latents = module.autoencoder.statistics.unstandardize(losses["pred_latents"])
            logits.append(module.autoencoder.decode(latents))
    assert found == pytest.approx(reconstruction_loss(torch.cat(logits), batch).item(), rel=1e-5)


def test_validation_is_the_same_every_time(module, batch, validate):
    first = validate(module, batch)
    torch.manual_seed(5)
    assert validate(module, batch) == first


def test_validation_leaves_the_random_state_of_training(module, batch, monkeypatch):
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    state = torch.get_rng_state()
    module.validation_step(batch, 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("cache_latents", [False, True])
def test_cache_encodes_each_training_row_once(
    make_lit_denoiser, batch, fit, monkeypatch, cache_latents
):
    calls, encode = [], TextAutoencoder.encode

    def record(*arguments):
        calls.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(TextAutoencoder, "encode", record)
    module = make_lit_denoiser(cache_latents=cache_latents)
    fit(module, batch, max_steps=6, batch_size=4)  # three epochs of two batches and two columns
    assert len(calls) == (4 if cache_latents else 12)


@pytest.mark.parametrize(
    ("max_steps", "batches_a_step", "fills"), [(2, 1, False), (1, 2, False), (2, 2, True)]
)
def test_only_a_training_of_more_than_one_epoch_fills_the_cache(
    make_lit_denoiser, batch, fit, max_steps, batches_a_step, fills
):
    """An epoch has two batches, which are one step where their gradients are accumulated."""
    module = make_lit_denoiser(cache_latents=True)
    fit(module, batch, max_steps, batch_size=4, accumulate_grad_batches=batches_a_step)
    assert (module.cache is not None) == fills


def test_cache_changes_latents_by_rounding_only(make_lit_denoiser, batch, fit):
    module = make_lit_denoiser(cache_latents=True)
    fit(module, batch, max_steps=2)
    module.train()
    cached = [module.latents(batch, column) for column in ("input", "source")]
    module.eval()
    for latents, column in zip(cached, ("input", "source"), strict=True):
        assert torch.allclose(latents, module.latents(batch, column), atol=5e-3)


def test_cache_of_training_rows_is_not_read_in_validation(
    make_lit_denoiser, make_texts, batch, fit
):
    """Rows of both sets are numbered from 0."""
    module = make_lit_denoiser(cache_latents=True)
    fit(module, batch, max_steps=2)
    module.eval()
    other = make_texts() | {"row": batch["row"]}
    expected = module.autoencoder.statistics.standardize(
        module.autoencoder.encode(other["input_ids"], other["attention_mask"])
    )
    assert torch.equal(module.latents(other, "input"), expected)
