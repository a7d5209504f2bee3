"""How a training may end, and what is saved then."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

OPTIONS = {
    "enable_checkpointing": True,
    "limit_val_batches": 1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "batch_size": 2,  # four batches an epoch
}


@pytest.fixture
def step_of():
    return lambda path: torch.load(path, weights_only=False)["global_step"]


@pytest.mark.parametrize(
    ("max_steps", "options", "expected"),
    [
        (5, {}, 5),
        (-1, {"max_epochs": 1}, 4),
        (-1, {"callbacks": [Timer({"milliseconds": 1})]}, 1),
        (9, {"callbacks": [EarlyStopping("val/reconstruction", patience=0, min_delta=9)]}, 2),
    ],
    ids=["steps", "epochs", "time", "early stop"],
)
def test_the_last_step_is_saved_however_the_training_ends(
    make_lit_autoencoder, fit, packed, tmp_path, step_of, max_steps, options, expected
):
    module = make_lit_autoencoder(lr_schedule="constant_with_warmup")
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=3)
    options = OPTIONS | {"val_check_interval": 1} | options
    options["callbacks"] = [*options.get("callbacks", []), checkpoint]
    fit(module, packed, max_steps, **options)
    assert step_of(tmp_path / "last.ckpt") == expected
    assert step_of(checkpoint.best_model_path) == expected


@pytest.mark.parametrize("interval", [1, 2])
def test_a_monitor_keeps_its_best_where_the_last_step_is_saved_too(
    make_lit_autoencoder, fit, packed, tmp_path, step_of, interval
):
    options = {"monitor": "val/token_accuracy_noise_1", "mode": "min", "save_last": True}
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=2, **options)
    options = OPTIONS | {"callbacks": [checkpoint], "val_check_interval": interval}
    fit(make_lit_autoencoder(), packed, 3, **options)
    assert step_of(tmp_path / "last.ckpt") == 3
    assert step_of(checkpoint.best_model_path) == 2
