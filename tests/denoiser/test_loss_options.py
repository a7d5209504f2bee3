import pytest
import torch
from torch import nn

from autoencoder.training import reconstruction_loss
from denoiser import EMAWithWarmup, LossOptions
from denoiser.infilling import KnownLatents
from denoiser.noise import flow_step, shift_time
from denoiser.objective import denoising_loss
from denoiser.schedulers import SamplingDefaults
from denoiser.teacher import grid_time


class Recorder(nn.Module):
    """Predict by a function of the noisy latents and of who follows the null; keep all calls."""

    def __init__(self, predict):
        super().__init__()
        self.predict, self.calls = predict, []

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        prediction = self.predict(noisy_latents, is_null)
        self.calls.append({**locals(), "has_gradient": torch.is_grad_enabled()})
        return prediction


@pytest.fixture
def latents():
    return torch.randn(8, 3, 8)


@pytest.fixture
def make_loss(latents):
    def make(denoiser, latents=latents, **options):
        known_mask = torch.ones(len(latents), 2, dtype=torch.bool)
        known_mask[0] = False
        defaults = {
            "latents": latents,
            "known_latents": torch.zeros(len(latents), 2, 8),
            "known_mask": known_mask,
            "noise_shift": 4.0,
            "cond_drop_prob": 0.0,
            "self_condition_prob": 0.5,
        }
        torch.manual_seed(5)
        return denoising_loss(denoiser, **defaults | options)

    return make


OFF = [
    LossOptions(),
    LossOptions(guidance_weight=0.0, consistency_weight=0.0, consistency_steps=8),
]


@pytest.mark.parametrize("options", OFF)
def test_at_weight_zero_the_loss_is_the_plain_one_bit_for_bit(make_loss, make_denoiser, options):
    denoiser = make_denoiser()
    losses, plain = make_loss(denoiser, options=options), make_loss(denoiser)
    assert losses.keys() == plain.keys()
    assert all(torch.equal(losses[name], plain[name]) for name in plain)


@pytest.mark.parametrize("weight", [0.5, 0.75])
def test_guidance_folded_in_is_at_rest_at_the_guided_prediction(make_loss, weight):
    """The null predicts 0.5 where the source makes it 2: at scale 1 / (1 - weight) that is all."""
    latents = torch.full((8, 3, 8), 2.0)
    guided = 0.5 + 1.5 / (1 - weight)

    def predict(noisy_latents, is_null):
        value = torch.where(is_null, 0.5, guided)[:, None, None]
        return value.expand_as(noisy_latents)

    options = LossOptions(guidance_weight=weight)
    error = make_loss(Recorder(predict), latents, options=options)["row_error"]
    assert error[1:].max() < 1e-6
    assert error[0] == pytest.approx(1.5**2)  # no source: the target is the text itself


def test_guidance_folded_in_costs_one_call_without_gradient(make_loss):
    recorder = Recorder(lambda noisy, is_null: noisy)
    make_loss(recorder, options=LossOptions(guidance_weight=0.5), self_condition_prob=0.0)
    trained, of_null = recorder.calls
    assert (trained["has_gradient"], of_null["has_gradient"]) == (True, False)
    assert of_null["is_null"].all()
    assert torch.equal(of_null["self_condition"], trained["self_condition"])


def test_velocity_weights_compare_velocities(make_loss, make_denoiser):
    recorder = Recorder(lambda noisy, is_null: 0.3 * noisy)
    latents = torch.randn(512, 3, 8)
    losses = make_loss(recorder, latents, options=LossOptions(weighting="velocity"))
    t = losses["t"][:, None, None]
    call = recorder.calls[-1]
    noise = (call["noisy_latents"] - (1 - t) * latents) / t
    velocity = (call["noisy_latents"] - call["prediction"]) / t
    error = (velocity - (noise - latents)).square().mean(dim=(1, 2))
    is_weighed = losses["t"] >= 0.05
    weighed = losses["row_error"] * LossOptions(weighting="velocity").row_weights(losses["t"])
    assert torch.allclose(weighed[is_weighed], error[is_weighed], rtol=1e-3)
    assert losses["loss"] == pytest.approx(weighed.mean().item(), rel=1e-5)
    assert (weighed[~is_weighed] < error[~is_weighed]).all()


@pytest.mark.parametrize("num_steps", [2, 16])
def test_the_time_before_is_that_of_the_grid_of_sampling(num_steps):
    options = LossOptions(consistency_steps=num_steps)
    point = torch.arange(1, num_steps + 1)
    before = options.previous_time(grid_time(point, num_steps, 4.0), 4.0)
    assert torch.allclose(before, grid_time(point - 1, num_steps, 4.0), atol=1e-6)
    assert options.previous_time(shift_time(torch.tensor([0.01]), 4.0), 4.0) == 0


def test_consistency_compares_with_the_averaged_network_one_step_down_the_own_path(make_loss):
    student = Recorder(lambda noisy, is_null: 0.5 * noisy)
    average = Recorder(lambda noisy, is_null: noisy + 1)
    options = LossOptions(consistency_weight=9.0)  # how much of it counts now is given
    losses = make_loss(
        student,
        options=options,
        consistency_weight=2.0,
        target_denoiser=average,
        self_condition_prob=0.0,
    )
    (call,), (goal,) = student.calls, average.calls
    next_t = options.previous_time(losses["t"], 4.0)
    landing = flow_step(call["prediction"], call["noisy_latents"], losses["t"], next_t)
    assert torch.allclose(goal["noisy_latents"], landing)
    assert torch.equal(goal["t"], next_t)
    assert torch.equal(goal["self_condition"], call["prediction"])
    assert not goal["has_gradient"]
    consistency = (call["prediction"] - goal["prediction"]).square().mean()
    plain = make_loss(student, self_condition_prob=0.0)["loss"]
    assert losses["consistency"] == pytest.approx(consistency.item(), rel=1e-5)
    assert losses["loss"] == pytest.approx((plain + 2 * consistency).item(), rel=1e-5)


def test_predictions_that_agree_along_the_path_are_consistent(make_loss, latents):
    truth = Recorder(lambda noisy, is_null: latents)
    assert make_loss(truth, consistency_weight=1.0, self_condition_prob=0.0)["loss"] == 0


def test_known_latents_are_compared_with_no_target(make_loss, latents):
    mask = torch.zeros(8, 3, dtype=torch.bool)
    mask[:, 0] = True

    class Infilling(Recorder):
        config = type("Config", (), {"infill_prob": 0.5})

        def forward(self, *inputs, clean_mask=None):
            return super().forward(*inputs)

    def predict(noisy_latents, is_null):
        return torch.where(mask[..., None], 100.0, latents)  # wrong where it is known alone

    options = LossOptions("velocity", guidance_weight=0.5)
    known = KnownLatents(latents, mask)
    given = {"known": known, "options": options, "self_condition_prob": 0.0}
    losses = make_loss(Infilling(predict), consistency_weight=1.0, **given)
    assert losses["loss"] == 0


def test_velocity_weights_count_beside_known_latents_too(make_loss, make_denoiser, latents):
    mask = torch.zeros(8, 3, dtype=torch.bool)
    mask[:, 0] = True
    options, known = LossOptions("velocity"), KnownLatents(latents, mask)
    losses = make_loss(make_denoiser(infill_prob=0.5), options=options, known=known)
    weighed = losses["row_error"] * options.row_weights(losses["t"])
    assert losses["loss"].item() == pytest.approx(weighed.mean().item(), rel=1e-5)


def test_the_weight_of_consistency_grows_over_its_warm_up():
    options = LossOptions(consistency_weight=2.0, consistency_warmup_steps=4)
    assert [options.consistency_weight_at(step) for step in range(6)] == [0, 0.5, 1, 1.5, 2, 2]
    assert LossOptions(consistency_weight=2.0).consistency_weight_at(0) == 2


@pytest.fixture
def batch(make_pairs):
    return make_pairs(32) | {"row": torch.arange(32)}


ALL = LossOptions("velocity", guidance_weight=0.5, consistency_weight=0.5, decoder_weight=0.1)


@pytest.mark.parametrize(
    "options", [LossOptions("velocity"), LossOptions(guidance_weight=0.3), ALL]
)
def test_training_with_options_lowers_the_plain_loss_of_a_validation(
    make_lit_denoiser, batch, fit, validate, options
):
    module = make_lit_denoiser(noise_shift=1.0, loss_options=options)
    encoded = module.autoencoder.encode(batch["input_ids"], batch["attention_mask"])
    module.autoencoder.statistics.measure(encoded.flatten(0, 1))
    plain = make_lit_denoiser(noise_shift=1.0, autoencoder=module.autoencoder)
    plain.denoiser.load_state_dict(module.denoiser.state_dict())
    before = validate(module, batch)
    assert before == validate(plain, batch)
    fit(module, batch, max_steps=80, batch_size=32, callbacks=[EMAWithWarmup(0.5)])
    assert validate(module, batch)["val/loss"] < 0.95 * before["val/loss"]


def test_consistency_takes_the_averaged_weights_where_there_are_any(make_lit_denoiser, batch, fit):
    found = []

    class Watch(EMAWithWarmup):
        def on_train_batch_start(self, trainer, pl_module, *_):
            found.append((pl_module.target_denoiser, self.averaged.denoiser, pl_module.denoiser))

    fit(make_lit_denoiser(loss_options=ALL), batch, max_steps=1, callbacks=[Watch()])
    [(target, average, current)] = found
    assert target is average
    assert target is not current
    module = make_lit_denoiser(loss_options=ALL)
    fit(module, batch, max_steps=1)
    assert module.target_denoiser is module.denoiser


def test_consistency_adds_its_error_in_training_only(make_lit_denoiser, make_trainer, batch):
    module = make_lit_denoiser(active=True, loss_options=LossOptions(consistency_weight=3.0))
    module.trainer = make_trainer()
    found = []
    for mode in (True, False):
        torch.manual_seed(0)
        found.append(module.train(mode).loss(batch))
    added = found[0]["loss"] - found[1]["loss"]
    assert added.item() == pytest.approx(3 * found[0]["consistency"].item(), rel=1e-4)
    assert "consistency" not in found[1]


def test_decoded_tokens_add_their_cross_entropy_in_training_only(make_lit_denoiser, batch):
    module = make_lit_denoiser(active=True, loss_options=LossOptions(decoder_weight=3.0))
    plain = make_lit_denoiser(autoencoder=module.autoencoder)
    plain.denoiser.load_state_dict(module.denoiser.state_dict())
    found = {}
    for name, each in {"with": module, "without": plain}.items():
        torch.manual_seed(0)
        found[name] = each.loss(batch)
    latents = module.autoencoder.statistics.unstandardize(found["with"]["pred_latents"])
    decoder_loss = reconstruction_loss(module.autoencoder.decode(latents), batch)
    added = found["with"]["loss"] - found["without"]["loss"]
    assert added.item() == pytest.approx(3 * decoder_loss.item(), rel=1e-4)
    assert found["with"]["decoder_loss"] == decoder_loss.detach()
    assert "decoder_loss" not in found["without"]
    assert "decoder_loss" not in module.eval().loss(batch)


def test_decoded_tokens_train_the_denoiser_through_the_frozen_decoder(
    make_lit_denoiser, batch, fit, validate
):
    """With the same steps the tokens get more likely; how far the latents are off has no say."""
    decoder_loss = {}
    autoencoder = make_lit_denoiser().autoencoder
    encoded = autoencoder.encode(batch["input_ids"], batch["attention_mask"])
    autoencoder.statistics.measure(encoded.flatten(0, 1))
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        options = LossOptions(decoder_weight=weight)
        module = make_lit_denoiser(autoencoder=autoencoder, loss_options=options)
        fit(module, batch, max_steps=80, batch_size=32)
        decoder_loss[weight] = validate(module, batch)["val/decoder_loss"]
    assert decoder_loss[10.0] < decoder_loss[0.0]
    assert all(weight.grad is None for weight in autoencoder.parameters())


def test_what_is_guided_in_training_is_not_guided_again(make_lit_denoiser, batch):
    module = make_lit_denoiser(loss_options=LossOptions(guidance_weight=0.5))
    assert module.sampling == SamplingDefaults(guidance_scale=1.0)
    assert make_lit_denoiser().sampling == SamplingDefaults()
    texts = {name: values for name, values in batch.items() if not name.startswith("source")}
    with pytest.raises(ValueError, match="`guidance_weight` has no effect for texts without"):
        module.loss(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "snr"}, "`weighting` must be latents or velocity, got 'snr'"),
        ({"guidance_weight": 1.0}, r"`guidance_weight` must be in \[0, 1\), got 1.0"),
        ({"consistency_weight": -1.0}, "`consistency_weight` must be at least 0, got -1.0"),
        ({"consistency_steps": 1}, "`consistency_steps` must be at least 2, got 1"),
        ({"consistency_warmup_steps": -1}, "`consistency_warmup_steps` must be at least 0"),
        ({"consistency_warmup_steps": 60}, "`consistency_warmup_steps` has no effect at `consist"),
        ({"decoder_weight": -0.1}, "`decoder_weight` must be at least 0, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossOptions(**options)
