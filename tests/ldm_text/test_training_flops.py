from functools import partial

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from denoiser import LitDistillation, LossOptions, PretrainedDenoiser, ProgressiveDistillation
from ldm_text.training_flops import CountTrainingFLOPs
from ldm_text.training_report import describe_run


class OneProduct(LightningModule):
    """A product of (4, 3) and (3, 5) a batch, and as much again for the gradient of the weights."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 5, bias=False)
        self.layer.compile()  # the counter has to look into it all the same

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.layer(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class CountEveryStep(CountTrainingFLOPs):
    """Let no step stand for another."""

    def on_train_batch_start(self, *arguments):
        if self.step is None:
            self.flops_per_step = None
        super().on_train_batch_start(*arguments)


def fit_one_product(folder, max_steps, ckpt_path=None, num_rows=8, **options):
    callback = CountTrainingFLOPs()
    trainer = Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **options,
    )
    loader = DataLoader(torch.ones(num_rows, 3), batch_size=4)
    trainer.fit(OneProduct(), loader, loader, ckpt_path=ckpt_path)
    return callback, trainer


def test_a_step_is_counted_once_and_stands_for_all_steps(tmp_path):
    callback, trainer = fit_one_product(tmp_path, 2)
    assert callback.flops_per_step == 2 * (2 * 4 * 3 * 5)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert describe_run(tmp_path / "two.ckpt")["training_flops"] == 2 * 240

    resumed, trainer = fit_one_product(tmp_path, 5, tmp_path / "two.ckpt")
    assert not resumed.is_counted
    assert resumed.flops_per_step == 240
    trainer.save_checkpoint(tmp_path / "five.ckpt")
    assert describe_run(tmp_path / "five.ckpt")["training_flops"] == 5 * 240


def test_a_step_has_all_batches_whose_gradients_it_accumulates(tmp_path):
    """A validation within the step has no part in it."""
    options = {"accumulate_grad_batches": 4, "val_check_interval": 1}
    callback, _ = fit_one_product(tmp_path, 3, num_rows=16, **options)
    assert callback.flops_per_step == 4 * 240
    assert callback.training_flops == 3 * 4 * 240


@pytest.fixture
def batch(make_pairs):
    return make_pairs()


@pytest.fixture
def counts(batch, fit):
    """Train with both ways of counting; return their sums, and how many steps the first counted."""

    def run(make_module, max_steps):
        class Recorder(CountTrainingFLOPs):
            num_counted = 0

            def on_train_batch_start(self, *arguments):
                super().on_train_batch_start(*arguments)
                self.num_counted += self.is_counted

        sums = []
        for callback in (Recorder(), CountEveryStep()):
            torch.manual_seed(0)
            fit(make_module(), batch, max_steps, callbacks=[callback])
            sums.append(callback.training_flops)
            if isinstance(callback, Recorder):
                num_counted = callback.num_counted
        return *sums, num_counted

    return run


def test_each_round_of_a_distillation_is_counted(counts, pretrained_folder):
    """Only the first is guided: its steps are the dearest."""
    make = partial(
        LitDistillation,
        objective=ProgressiveDistillation([1, 3, 2], [8, 4, 2], 16),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        guidance_scale=2.0,
        warmup_steps=0,
    )
    found, expected, num_counted = counts(
        lambda: make(PretrainedDenoiser(str(pretrained_folder))), 6
    )
    assert found == expected
    assert num_counted == 3


def test_consistency_is_counted_where_its_weight_leaves_zero(counts, make_lit_denoiser):
    options = LossOptions(consistency_weight=0.5, consistency_warmup_steps=3)
    found, expected, num_counted = counts(lambda: make_lit_denoiser(loss_options=options), 5)
    assert found == expected
    assert num_counted == 2
