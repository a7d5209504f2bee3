from functools import partial

import pytest
import torch

from autoencoder.latent_space import latent_space_id
from denoiser import LatentClassifier, LitLatentClassifier

BINS = ("0.00_to_0.25", "0.25_to_0.50", "0.50_to_0.75", "0.75_to_1.00")


@pytest.fixture
def make_module(make_autoencoder):
    def make(**options):
        autoencoder = make_autoencoder()
        autoencoder.statistics.measure(torch.randn(50, 8))
        toy = {
            "classifier": partial(LatentClassifier, hidden_dim=32, num_layers=1, num_heads=2),
            "autoencoder": autoencoder,
            "optimizer": partial(torch.optim.AdamW, lr=3e-3),
            "attribute": "half",
            "label_names": ["low", "high"],
            "warmup_steps": 0,
            "noise_shift": 0.3,
            "lr_schedule": "linear",
        }
        return LitLatentClassifier(**toy | options)

    return make


@pytest.fixture
def batch(make_texts):
    """Texts whose tokens are of one half of the vocabulary, which is their label."""
    texts, label = make_texts(num_rows=64), torch.arange(64) % 2
    ids = texts["input_ids"]
    halved = torch.where(ids > 2, 3 + (ids - 3) % 18 + 18 * label[:, None], ids)
    return texts | {"input_ids": halved, "label": label}


def test_a_classifier_trained_for_seconds_tells_two_different_classes(
    make_module, batch, fit, validate
):
    module = make_module()
    before = validate(module, batch)
    fit(module, batch, max_steps=150, batch_size=32, shuffle=True)
    after = validate(module, batch)
    assert before["val/loss"] == pytest.approx(0.693, abs=1e-3)
    assert after["val/accuracy_t_0.00_to_0.25"] > 0.95
    assert after["val/loss"] < 0.5
    assert {f"val/accuracy_t_{name}" for name in BINS} < set(after)


def test_training_moves_the_classifier_and_never_the_autoencoder(make_module, batch, fit):
    module = make_module()
    autoencoder = {name: value.clone() for name, value in module.autoencoder.state_dict().items()}
    fit(module, batch, max_steps=3)
    for name, value in module.autoencoder.state_dict().items():
        assert torch.equal(value, autoencoder[name]), name
    assert not module.autoencoder.training
    assert module.classifier.out.weight.abs().sum() > 0


def test_two_short_trainings_with_one_seed_give_equal_parameters(make_module, batch, fit):
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        module = make_module()
        fit(module, batch, max_steps=3)
        weights.append(module.classifier.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_classifier_names_its_labels_and_its_latents(make_module, tmp_path, assert_same_model):
    module = make_module()
    config = module.classifier.config
    assert (config.attribute, list(config.labels)) == ("half", ["low", "high"])
    assert config.latent_space == latent_space_id(module.autoencoder)
    module.classifier.save_pretrained(tmp_path)
    assert_same_model(LatentClassifier.from_pretrained(tmp_path), module.classifier)


def test_latents_have_one_name_in_either_precision_and_whatever_decodes_them(make_autoencoder):
    autoencoder = make_autoencoder()
    name = latent_space_id(autoencoder)
    with torch.no_grad():
        autoencoder.decoder.latent_projection.weight.add_(1)
    assert latent_space_id(torch.nn.Module.to(autoencoder, torch.bfloat16)) == name
    assert latent_space_id(torch.nn.Module.to(autoencoder, torch.float32)) == name
    autoencoder.statistics.measure(torch.randn(50, 8))
    assert latent_space_id(autoencoder) != name


def test_data_without_labels_is_refused(make_module):
    with pytest.raises(ValueError, match="needs data with labels"):
        make_module(label_names=None)
