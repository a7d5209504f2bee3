import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint

from autoencoder import LatentCorruption
from autoencoder.latent_statistics import LatentStatistics
from autoencoder.training import reconstruction_loss
from denoiser import EMAWithWarmup

CLEAN = {"corruption": LatentCorruption(max_noise_ratio=0.0), "max_token_mask_prob": 0.0}


@pytest.fixture
def packed(make_texts):
    """One text a row, as a packed batch with free latents behind it."""
    texts = make_texts()
    is_text = texts["attention_mask"].unflatten(1, (-1, 4)).any(dim=2)
    return texts | {"document_ids": is_text.long() - 1}


def test_reconstruction_loss_equals_a_plain_loop(packed):
    logits = torch.randn(8, 12, 40)
    terms = [
        -logits[row, position].log_softmax(dim=0)[packed["input_ids"][row, position]]
        for row in range(8)
        for position in range(12)
        if packed["attention_mask"][row, position]
    ]
    expected = sum(terms) / len(terms)
    assert reconstruction_loss(logits, packed).item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_has_no_part_in_the_reconstruction_loss(packed):
    logits, padding = torch.randn(8, 12, 40), ~packed["attention_mask"]
    changed = logits.masked_fill(padding[..., None], 50.0)
    other = packed | {"input_ids": packed["input_ids"].masked_fill(padding, 7)}
    assert torch.equal(reconstruction_loss(changed, other), reconstruction_loss(logits, packed))


def test_tiny_autoencoder_learns_eight_sentences_exactly(make_lit_autoencoder, fit, packed):
    module = make_lit_autoencoder(**CLEAN)
    ids, mask = packed["input_ids"], packed["attention_mask"]
    assert (module.autoencoder.reconstruct(ids, mask) == ids)[mask].float().mean() < 0.9
    fit(module, packed, max_steps=100)
    assert torch.equal(module.autoencoder.reconstruct(ids, mask), ids)


def test_two_short_trainings_with_one_seed_give_equal_parameters(make_lit_autoencoder, fit, packed):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        module = make_lit_autoencoder()
        fit(module, packed, max_steps=4, batch_size=4, shuffle=True)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_training_corrupts_tokens_and_latents(make_lit_autoencoder, packed, monkeypatch):
    module = make_lit_autoencoder(max_token_mask_prob=1.0)
    seen = {}
    encode, decode = module.autoencoder.encode, module.autoencoder.decode

    def record_encode(input_ids, *others):
        seen["ids"], seen["latents"] = input_ids, encode(input_ids, *others)
        return seen["latents"]

    def record_decode(latents, **options):
        seen["corrupted"], seen["options"] = latents, options
        return decode(latents, **options)

    monkeypatch.setattr(module.autoencoder, "encode", record_encode)
    monkeypatch.setattr(module.autoencoder, "decode", record_decode)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    module.training_step(packed, 0)
    assert (seen["ids"] == 2).any()
    assert not torch.allclose(seen["corrupted"], seen["latents"], atol=0.1)
    assert torch.equal(seen["options"]["document_ids"], packed["document_ids"])


def test_validation_averages_over_tokens_not_batches(make_lit_autoencoder, validate, packed):
    module = make_lit_autoencoder()
    metrics = validate(module, packed)
    ids, mask, document_ids = packed.values()
    autoencoder = module.autoencoder
    with torch.no_grad():
        latents = autoencoder.encode(ids, mask, document_ids)
        logits = autoencoder.decode(latents, document_ids=document_ids)
    accuracy = (logits.argmax(-1) == ids)[mask].float().mean()
    assert metrics["val/token_accuracy"] == pytest.approx(accuracy.item())
    expected = F.cross_entropy(logits[mask], ids[mask])
    assert metrics["val/reconstruction"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["val/token_accuracy_noise_1"] < metrics["val/token_accuracy"]


def test_validation_measures_the_statistics_of_text_latents(make_lit_autoencoder, validate, packed):
    module = make_lit_autoencoder()
    validate(module, packed)
    autoencoder = module.autoencoder
    latents = autoencoder.encode(packed["input_ids"], packed["attention_mask"])
    latents = latents[autoencoder.latent_mask(packed["attention_mask"])]
    assert torch.allclose(autoencoder.statistics.latent_mean, latents.mean(0), atol=1e-5)
    assert torch.allclose(autoencoder.statistics.latent_std, latents.std(0), atol=1e-5)


@pytest.fixture
def assert_own_statistics(make_autoencoder, packed):
    """Compare the statistics in a checkpoint with those of its own weights."""

    def compare(file):
        weights = torch.load(file, weights_only=False)["state_dict"]
        model = make_autoencoder()
        model.load_state_dict(
            {name.removeprefix("autoencoder."): weights[name] for name in weights}
        )
        latents = model.encode(packed["input_ids"], packed["attention_mask"])
        expected = LatentStatistics(latents.shape[-1])
        expected.measure(latents[model.latent_mask(packed["attention_mask"])])
        torch.testing.assert_close(model.statistics.state_dict(), expected.state_dict())

    return compare


@pytest.mark.parametrize("average", [[], [EMAWithWarmup()]], ids=["plain", "averaged"])
def test_a_checkpoint_holds_the_statistics_of_its_own_weights(
    make_lit_autoencoder, assert_own_statistics, fit, packed, tmp_path, average
):
    """Although Lightning writes the checkpoint of a step before its validation."""
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2, save_top_k=-1)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    options |= {"callbacks": [*average, checkpoint], "enable_checkpointing": True}
    fit(make_lit_autoencoder(), packed, max_steps=4, **options)
    files = {*tmp_path.glob("*.ckpt")}
    assert len(files) == 3
    for file in files:
        assert_own_statistics(file)


@pytest.mark.parametrize("average", [[], [EMAWithWarmup()]], ids=["plain", "averaged"])
@pytest.mark.parametrize("max_steps", [3, 7])
def test_the_last_checkpoint_holds_its_statistics_without_a_validation_of_its_step(
    make_lit_autoencoder, assert_own_statistics, fit, packed, tmp_path, average, max_steps
):
    """It held a mean of 0 and a deviation of 1, or the statistics of the validation before."""
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    options = {"limit_val_batches": 1, "val_check_interval": 4, "num_sanity_val_steps": 0}
    options |= {"check_val_every_n_epoch": None, "callbacks": [*average, checkpoint]}
    options |= {"enable_checkpointing": True}
    fit(make_lit_autoencoder(), packed, max_steps=max_steps, **options)
    assert_own_statistics(tmp_path / "last.ckpt")
    assert_own_statistics(checkpoint.best_model_path)


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "cosine", "linear"])
def test_time_alone_ends_a_training_whose_learning_rate_needs_no_end(
    make_lit_autoencoder, fit, packed, schedule
):
    module = make_lit_autoencoder(lr_schedule=schedule)
    options = {"max_steps": -1, "max_time": {"milliseconds": 1}}
    if schedule == "constant_with_warmup":
        assert 0 < fit(module, packed, **options).global_step < 1000
        return
    with pytest.raises(ValueError, match=r"or `trainer\.max_epochs` must be set"):
        fit(module, packed, **options)


def test_a_share_of_masked_tokens_that_cannot_be_is_refused(make_lit_autoencoder):
    with pytest.raises(ValueError, match=r"`max_token_mask_prob` must be in \[0, 1\], got 1.5"):
        make_lit_autoencoder(max_token_mask_prob=1.5)


@pytest.mark.parametrize("limit_val_batches", [0, 1])
def test_rows_that_are_not_packed_are_refused(
    make_lit_autoencoder, make_texts, fit, limit_val_batches
):
    """It ended in a KeyError: 'document_ids'."""
    with pytest.raises(ValueError, match=r"set `data.init_args.layout` to packed"):
        fit(make_lit_autoencoder(), make_texts(), 1, limit_val_batches=limit_val_batches)


def test_a_monitored_best_checkpoint_stays_as_it_is(make_lit_autoencoder, fit, packed, tmp_path):
    """The validation of a later step is no part of it."""
    options = {"monitor": "val/reconstruction", "mode": "max", "save_last": True}
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=2, **options)
    options = {"limit_val_batches": 1, "val_check_interval": 1, "enable_checkpointing": True}
    options |= {"check_val_every_n_epoch": None, "callbacks": [checkpoint]}
    fit(make_lit_autoencoder(), packed, max_steps=4, **options)
    best, last = (
        torch.load(path, weights_only=False)
        for path in (checkpoint.best_model_path, tmp_path / "last.ckpt")
    )
    assert (best["global_step"], last["global_step"]) == (2, 4)
    name = "autoencoder.statistics.latent_mean"
    assert not torch.equal(best["state_dict"][name], last["state_dict"][name])


def test_validation_is_the_same_every_time(make_lit_autoencoder, validate, packed):
    module = make_lit_autoencoder()
    first, second = (validate(module, packed) for _ in range(2))
    assert first == second
