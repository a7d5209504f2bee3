import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from autoencoder.seeded_steps import SeededSteps


class Recorder(SeededSteps):
    """Draw from each generator in each step; between steps, draw as a validation might."""

    def __init__(self, num_between):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.num_between = num_between
        self.draws = []

    def training_step(self, batch, batch_idx):
        self.draws.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
        return self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for _ in range(self.num_between):
            random.random()
            np.random.rand()  # noqa: NPY002
            torch.rand(())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def draws(fit, make_texts):
    def run(num_between=0, seed=0, **options):
        batch = make_texts()
        torch.manual_seed(seed)
        module = Recorder(num_between)
        fit(module, batch, max_steps=4, batch_size=4, **options)
        return module.draws

    return run


def test_draws_of_a_step_depend_on_nothing_before_it(draws):
    expected = draws()
    assert draws(num_between=3) == expected
    assert len({number for step in expected for number in step}) == 12


def test_another_seed_gives_other_draws(draws):
    assert draws()[0] != draws(seed=1)[0]


def test_batches_of_one_optimizer_step_draw_apart(draws):
    steps = draws(accumulate_grad_batches=2)
    assert len(set(steps)) == len(steps) == 8


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_a_training_made_in_python_is_resumed_without_unpickling(
    make_lit_autoencoder,
    make_lit_denoiser,
    fit,
    make_trainer,
    make_loader,
    make_texts,
    tmp_path,
    stage,
):
    """The optimizer, as a partial function, stood in the checkpoint."""
    texts = make_texts()
    if stage == "autoencoder":
        is_text = texts["attention_mask"].unflatten(1, (-1, 4)).any(dim=2)
        texts["document_ids"] = is_text.long() - 1
    make = {"autoencoder": make_lit_autoencoder, "denoiser": make_lit_denoiser}[stage]
    first = fit(make(), texts, 1)
    first.save_checkpoint(tmp_path / "last.ckpt")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert kept["lr_schedule"] == "linear"
    assert "optimizer" not in kept
    second = make_trainer(2, limit_val_batches=0)
    second.fit(make(), make_loader(texts), make_loader(texts), ckpt_path=tmp_path / "last.ckpt")
    assert second.global_step == 2


def test_sharding_of_the_forward_pass_alone_is_refused():
    """These modules run their networks by other methods, whose weights would stay in parts."""
    module = Recorder(num_between=0)
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())
    module._fabric = None
    with pytest.raises(ValueError, match=r"use `--trainer.strategy fully_sharded`"):
        module.setup("fit")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_16_bits_are_refused(draws, precision):
    """They ended in a RuntimeError in both stages."""
    with pytest.raises(ValueError, match=f"precision {precision}` keeps .* use .* bf16-mixed"):
        draws(precision=precision)


def test_a_training_that_needs_whole_weights_refuses_to_be_sharded():
    module = Recorder(num_between=0)
    module.can_be_sharded = False
    module.configure_model()
    module._device_mesh = object()
    with pytest.raises(ValueError, match=r"Recorder needs whole weights: use `--trainer.strat"):
        module.configure_model()
