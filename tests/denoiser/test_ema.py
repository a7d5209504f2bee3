import pytest
import torch
from lightning import Callback
from torch import nn
from torch.optim.swa_utils import AveragedModel

from denoiser import EMAWithWarmup


def average_of(weights, decay):
    """Average a list of weights by the formula of the docstring; the first is taken as it is."""
    average = weights[0]
    for n, weight in enumerate(weights[1:], start=1):
        decay_n = min(decay, (1 + n) / (10 + n))
        average = decay_n * average + (1 - decay_n) * weight
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_average_follows_the_warmup_formula(decay):
    weights = torch.randn(12, dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    averaged = AveragedModel(model, avg_fn=EMAWithWarmup(decay).average)
    for num_updates, weight in enumerate(weights, start=1):
        nn.init.constant_(model.weight, weight.item())
        averaged.update_parameters(model)
        expected = average_of(weights[:num_updates].tolist(), decay)
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_constant_weights_stay():
    model = nn.Linear(5, 5)
    averaged = AveragedModel(model, avg_fn=EMAWithWarmup().average)
    for _ in range(20):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.weight, model.weight)


class RecordWeights(Callback):
    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append(pl_module.denoiser.out.weight.detach().clone())


def test_training_ends_with_the_averaged_weights(make_lit_denoiser, make_texts, fit):
    module, record = make_lit_denoiser(), RecordWeights()
    frozen = {name: value.clone() for name, value in module.autoencoder.state_dict().items()}
    fit(module, make_texts(), max_steps=6, callbacks=[EMAWithWarmup(0.999), record])
    expected = average_of(record.weights, 0.999)
    assert torch.allclose(module.denoiser.out.weight, expected, atol=1e-7)
    assert not torch.allclose(record.weights[-1], expected, atol=1e-5)
    for name, value in module.autoencoder.state_dict().items():
        assert torch.equal(value, frozen[name]), name


class RecordValidation(Callback):
    """Record, and measure a buffer, where other callbacks log their figures of a validation."""

    def __init__(self):
        self.weights = []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.weights.append(pl_module.denoiser.out.weight.detach().clone())
        pl_module.autoencoder.statistics.latent_mean.fill_(7.0)


def test_callbacks_see_the_averaged_weights_at_a_validation(make_lit_denoiser, make_texts, fit):
    """They saw the current ones, as the average went before they came."""
    module, record, validation = make_lit_denoiser(), RecordWeights(), RecordValidation()
    options = {"check_val_every_n_epoch": None, "val_check_interval": 6, "limit_val_batches": 1}
    options["num_sanity_val_steps"] = 0
    callbacks = [EMAWithWarmup(0.999), record, validation]
    fit(module, make_texts(), max_steps=6, callbacks=callbacks, **options)
    [seen] = validation.weights
    assert torch.allclose(seen, average_of(record.weights, 0.999), atol=1e-7)
    assert not torch.allclose(seen, record.weights[-1], atol=1e-5)
    assert (module.autoencoder.statistics.latent_mean == 7.0).all()  # measured, not averaged


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=rf"`decay` must be in \[0, 1\), got {decay}"):
        EMAWithWarmup(decay)
