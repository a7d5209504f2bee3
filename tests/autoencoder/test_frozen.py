import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from autoencoder import FrozenEncoderAutoencoder, LitAutoencoder, load_autoencoder


@pytest.fixture
def checkpoint(pretrained, token_texts, tmp_path, monkeypatch):
    """Save a Lightning checkpoint of a module that the CLI made; only then it loads by itself."""
    monkeypatch.setattr("sys.argv", ["ldm-text"])
    options = {
        "model.autoencoder": "autoencoder.FrozenEncoderAutoencoder",
        "model.autoencoder.pretrained": pretrained,
        "model.autoencoder.vocab_size": 40,
        "model.autoencoder.latent_dim": 8,
        "model.autoencoder.token_dim": 16,
        "model.autoencoder.hidden_dim": 32,
        "model.autoencoder.num_heads": 2,
        "model.corruption": "autoencoder.LatentCorruption",
        "model.alignment": "autoencoder.LatentAlignment",
        "model.alignment.pretrained": pretrained,
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
    cli.trainer.datamodule = SimpleNamespace(token_texts=token_texts)
    cli.model.trainer = cli.trainer
    cli.model.setup("fit")
    cli.model.autoencoder.statistics.measure(
        torch.randn(50, cli.model.autoencoder.config.latent_dim)
    )
    cli.trainer.datamodule = None
    cli.trainer.strategy.connect(cli.model)
    cli.trainer.save_checkpoint(tmp_path / "last.ckpt")
    return cli.model, tmp_path / "last.ckpt"


def test_a_checkpoint_has_the_words_of_the_data_and_not_the_frozen_weights(checkpoint, token_texts):
    module, path = checkpoint
    assert list(module.alignment_loss.states.token_texts) == token_texts
    content = torch.load(path, weights_only=True)
    assert content["token_texts"] == token_texts
    assert not any("bert" in name or "pretrained" in name for name in content["state_dict"])
    loaded = load_autoencoder(str(path))
    assert loaded.config.token_texts == token_texts
    assert loaded.state_dict().keys() == module.autoencoder.state_dict().keys()
    ids = torch.randint(3, 40, (2, 12))
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(loaded.encode(ids, mask), module.autoencoder.encode(ids, mask))


def test_the_frozen_encoder_is_no_part_of_the_model(make_variant):
    model = make_variant("frozen")
    width = 4 * 16  # a patch of four states
    assert model.encoder.patch_projection.weight.shape == (32, width)
    names = [name.split(".")[0] for name, _ in model.named_parameters()]
    assert set(names) == {"embedding", "encoder", "decoder", "empty_state"}


def test_masked_tokens_are_masks_to_the_frozen_encoder(make_variant):
    model = make_variant("frozen")
    ids = torch.randint(3, 40, (1, 12))
    mask = torch.ones_like(ids, dtype=torch.bool)
    hidden = ids.clone()
    hidden[0, :4] = 2
    slots = model.token_states.slots(hidden, mask, None)
    tokenizer = model.token_states.pieces.tokenizer
    read = tokenizer.convert_ids_to_tokens(slots[0, :4][slots[0, :4] >= 0].tolist())
    assert read == ["[CLS]", *["[MASK]"] * 4]
    masked = model.encode(hidden, mask)
    assert not torch.allclose(masked[0, 0], model.encode(ids, mask)[0, 0], atol=1e-3)


def test_a_wrong_number_of_texts_is_refused(pretrained, token_texts):
    with pytest.raises(ValueError, match="a text for each of 40 tokens, got 39"):
        FrozenEncoderAutoencoder(40, pretrained, token_texts[:39], hidden_dim=32, num_heads=2)


def test_without_texts_it_says_where_they_come_from(pretrained):
    model = FrozenEncoderAutoencoder(40, pretrained, hidden_dim=32, num_heads=2)
    ids = torch.full((1, 4), 5)
    with pytest.raises(ValueError, match="the data module must have `token_texts`"):
        model.encode(ids, ids > 0)


def test_a_saved_model_decodes_where_there_is_no_pretrained_encoder(
    pretrained, token_texts, activate, tmp_path
):
    there = shutil.copytree(pretrained, tmp_path / "pretrained")
    model = activate(
        FrozenEncoderAutoencoder(40, str(there), token_texts, hidden_dim=32, num_heads=2)
    )
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(there)
    loaded = FrozenEncoderAutoencoder.from_pretrained(tmp_path / "model")
    latents = torch.randn(2, 3, model.config.latent_dim)
    with torch.no_grad():
        assert torch.equal(loaded.decode(latents), model.decode(latents))
    ids = torch.full((1, 4), 5)
    with pytest.raises(FileNotFoundError, match="No pretrained encoder at"):
        loaded.encode(ids, ids > 0)
