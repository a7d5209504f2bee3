import pytest
import torch

from denoiser import LatentDenoiser


@pytest.fixture
def denoiser(make_denoiser):
    return make_denoiser()


@pytest.fixture
def inputs():
    """Arguments of a forward call: two rows, three latents, four known positions."""
    return {
        "noisy_latents": torch.randn(2, 3, 8),
        "t": torch.tensor([0.3, 0.9]),
        "known_latents": torch.randn(2, 4, 8),
        "known_mask": torch.tensor([[True, True, True, True], [True, True, False, False]]),
        "is_null": torch.tensor([False, False]),
    }


NULL = {"is_null": torch.tensor([True, True])}


def differs(first, second):
    return not torch.allclose(first, second, atol=1e-3)


def test_known_latents_steer_the_prediction(denoiser, inputs):
    prediction = denoiser(**inputs)
    assert differs(denoiser(**inputs | {"known_latents": torch.randn(2, 4, 8)}), prediction)
    assert differs(denoiser(**inputs | NULL), prediction)


def test_null_is_independent_of_the_known_latents(denoiser, inputs):
    prediction = denoiser(**inputs | NULL)
    others = {
        "known_latents": torch.randn(2, 4, 8),
        "known_mask": torch.tensor([[False] * 4, [True, False, True, False]]),
    }
    assert torch.equal(denoiser(**inputs | NULL | others), prediction)


@pytest.mark.parametrize("num_known", [1, 2, 9])
def test_null_is_independent_of_the_number_of_source_positions(denoiser, inputs, num_known):
    prediction = denoiser(**inputs | NULL)
    others = {
        "known_latents": torch.randn(2, num_known, 8),
        "known_mask": torch.ones(2, num_known, dtype=torch.bool),
    }
    assert torch.allclose(denoiser(**inputs | NULL | others), prediction, atol=1e-5)


def test_null_rows_leave_the_other_rows_alone(denoiser, inputs):
    mixed = denoiser(**inputs | {"is_null": torch.tensor([False, True])})
    assert torch.allclose(mixed[0], denoiser(**inputs)[0], atol=1e-5)
    assert torch.allclose(mixed[1], denoiser(**inputs | NULL)[1], atol=1e-5)


def test_content_of_source_padding_has_no_influence(denoiser, inputs):
    padding = ~inputs["known_mask"][..., None]
    changed = torch.where(padding, 100 * torch.randn(2, 4, 8), inputs["known_latents"])
    assert torch.equal(denoiser(**inputs | {"known_latents": changed}), denoiser(**inputs))


def test_more_source_padding_has_no_influence(denoiser, inputs):
    wide = {
        "known_latents": torch.cat((inputs["known_latents"], torch.randn(2, 5, 8)), dim=1),
        "known_mask": torch.cat((inputs["known_mask"], torch.zeros(2, 5).bool()), dim=1),
    }
    assert torch.allclose(denoiser(**inputs | wide), denoiser(**inputs), atol=1e-5)


def test_rows_of_a_batch_do_not_touch_each_other(denoiser, inputs):
    together = denoiser(**inputs)
    for row in range(2):
        alone = denoiser(**{name: values[row : row + 1] for name, values in inputs.items()})
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def test_fresh_model_predicts_the_best_linear_estimate(make_denoiser, inputs):
    """For data and noise of variance 1: the covariance with the data over the variance."""
    t = inputs["t"][:, None, None]
    expected = (1 - t) / ((1 - t) ** 2 + t**2) * inputs["noisy_latents"]
    prediction = make_denoiser(active=False)(**inputs)
    assert torch.allclose(prediction, expected, atol=1e-6)


def test_prediction_at_time_zero_is_the_input(denoiser, inputs):
    prediction = denoiser(**inputs | {"t": torch.zeros(2)})
    assert torch.equal(prediction, inputs["noisy_latents"])


def test_network_sees_the_time(denoiser, inputs, monkeypatch):
    monkeypatch.setattr(denoiser.out_norm, "forward", lambda hidden: seen.append(hidden) or hidden)
    seen = []
    noisy = torch.zeros(2, 3, 8)  # looks the same at any time
    for t in (0.2, 0.21, 0.2):
        denoiser(**inputs | {"noisy_latents": noisy, "t": torch.full((2,), t)})
    assert differs(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_without_self_condition_it_is_zero(denoiser, inputs):
    prediction = denoiser(**inputs)
    assert torch.equal(denoiser(**inputs, self_condition=torch.zeros(2, 3, 8)), prediction)
    assert differs(denoiser(**inputs, self_condition=torch.randn(2, 3, 8)), prediction)


def test_segments_are_told_apart(denoiser, inputs):
    prediction = denoiser(**inputs)
    with torch.no_grad():
        denoiser.segment_embedding.weight.copy_(denoiser.segment_embedding.weight.flip(0))
    assert differs(denoiser(**inputs), prediction)


def test_gradients_reach_the_condition(denoiser, inputs):
    denoiser(**inputs | {"is_null": torch.tensor([False, True])}).square().mean().backward()
    for weight in (denoiser.known_projection.weight, denoiser.null_latent):
        assert weight.grad.abs().max() > 1e-4
    assert all(weight.grad is not None for weight in denoiser.parameters())


def test_prediction_is_float32_under_autocast(denoiser, inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = denoiser(**inputs)
    assert prediction.dtype == torch.float32
    assert torch.allclose(prediction, denoiser(**inputs), atol=0.1)


def test_saved_model_is_loaded_bit_for_bit(denoiser, assert_same_model, tmp_path):
    denoiser.save_pretrained(tmp_path)
    assert_same_model(LatentDenoiser.from_pretrained(tmp_path, use_safetensors=True), denoiser)


class Says(torch.nn.Module):
    """A last layer that says what it is told."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, hidden):
        return self.values


def test_both_prediction_types_return_the_latents_that_an_oracle_knows(make_denoiser, inputs):
    latents, noisy_latents = torch.randn(2, 3, 8), inputs["noisy_latents"]
    t = inputs["t"][:, None, None]
    scale = ((1 - t) ** 2 + t**2).sqrt()
    oracles = {
        "sample": (latents - (1 - t) / scale**2 * noisy_latents) * scale / t,
        "flow_prediction": (noisy_latents - latents) / t,
    }
    for prediction_type, values in oracles.items():
        denoiser = make_denoiser(prediction_type=prediction_type)
        denoiser.out = Says(values)
        assert torch.allclose(denoiser(**inputs), latents, atol=1e-5), prediction_type


def test_a_fresh_velocity_is_zero(make_denoiser, inputs):
    denoiser = make_denoiser(active=False, prediction_type="flow_prediction")
    assert torch.equal(denoiser(**inputs), inputs["noisy_latents"])


def test_a_prediction_type_is_saved_and_another_is_refused(
    make_denoiser, tmp_path, assert_same_model
):
    denoiser = make_denoiser(prediction_type="flow_prediction")
    denoiser.save_pretrained(tmp_path)
    assert_same_model(LatentDenoiser.from_pretrained(tmp_path), denoiser)
    message = "`prediction_type` must be sample or flow_prediction, got 'epsilon'"
    with pytest.raises(ValueError, match=message):
        make_denoiser(prediction_type="epsilon")
