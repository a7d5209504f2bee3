import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from autoencoder import LitAutoencoder, load_autoencoder


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Save a Lightning checkpoint of a module that the CLI made; only then it loads by itself."""
    monkeypatch.setattr("sys.argv", ["ldm-text"])
    options = {
        "model.autoencoder": "autoencoder.TextAutoencoder",
        "model.autoencoder.vocab_size": 40,
        "model.autoencoder.latent_dim": 8,
        "model.autoencoder.token_dim": 16,
        "model.autoencoder.hidden_dim": 32,
        "model.autoencoder.num_heads": 2,
        "model.corruption": "autoencoder.LatentCorruption",
        "model.optimizer": "torch.optim.AdamW",
        "trainer.logger": "false",
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": tmp_path,
    }
    cli = LightningCLI(
        LitAutoencoder,
        run=False,
        seed_everything_default=False,
        auto_configure_optimizers=False,
        args=[f"--{name}={value}" for name, value in options.items()],
    )
    cli.trainer.strategy.connect(cli.model)
    cli.trainer.save_checkpoint(tmp_path / "not_validated.ckpt")
    cli.model.autoencoder.statistics.measure(torch.randn(50, 8))
    cli.trainer.save_checkpoint(tmp_path / "last.ckpt")
    return cli.model.autoencoder, tmp_path / "last.ckpt"


@pytest.fixture
def assert_frozen_copy(assert_same_model):
    def compare(loaded, original):
        assert_same_model(loaded, original)
        assert not loaded.training
        assert not any(weight.requires_grad for weight in loaded.parameters())

    return compare


def test_lightning_checkpoint_is_loaded_frozen(checkpoint, assert_frozen_copy):
    autoencoder, path = checkpoint
    assert_frozen_copy(load_autoencoder(str(path)), autoencoder)


def test_lightning_checkpoint_holds_weights_and_plain_values_only(checkpoint):
    autoencoder, path = checkpoint
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["autoencoder"]["init_args"]["latent_dim"] == 8
    assert content["state_dict"].keys() == {
        f"autoencoder.{name}" for name in autoencoder.state_dict()
    }


def test_latents_that_were_never_measured_are_refused(checkpoint, tmp_path):
    """A denoiser was trained on latents that were not standardized, without a word."""
    with pytest.raises(ValueError, match=r"not_validated.ckpt` was never validated, .* go on with"):
        load_autoencoder(str(tmp_path / "not_validated.ckpt"))


def test_a_checkpoint_of_another_module_is_refused(checkpoint, tmp_path):
    """Lightning spoke of arbitrary code."""
    content = torch.load(checkpoint[1], weights_only=True)
    for hyperparameters in ({"denoiser": {}}, content["hyper_parameters"]):
        other = content | {"hyper_parameters": hyperparameters, "state_dict": {}}
        torch.save(other, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=r"other.ckpt` is no checkpoint of an autoencoder"):
            load_autoencoder(str(tmp_path / "other.ckpt"))


def test_exported_folder_is_loaded_frozen(make_autoencoder, assert_frozen_copy, tmp_path):
    autoencoder = make_autoencoder()
    autoencoder.save_pretrained(tmp_path)
    assert_frozen_copy(load_autoencoder(str(tmp_path)), autoencoder)


def test_pickled_weights_are_refused(make_autoencoder, tmp_path):
    make_autoencoder().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        load_autoencoder(str(tmp_path))


def test_missing_autoencoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No autoencoder at `.*nowhere`: train one"):
        load_autoencoder(str(tmp_path / "nowhere"))
