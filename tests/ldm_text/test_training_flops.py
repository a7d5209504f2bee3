"""The operations of a training step are counted as executed, once, and kept in the checkpoint."""

import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from ldm_text.training_flops import CountTrainingFLOPs
from ldm_text.training_report import describe_run


class OneProduct(LightningModule):
    """A product that costs ``2 * 3 * 5`` a row forwards, and as much backwards to its weights."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 5, bias=False)
        self.layer.compile()  # the counter has to look into it all the same

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, max_steps, ckpt_path=None):
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
    )
    trainer.fit(OneProduct(), DataLoader(torch.ones(8, 3), batch_size=4), ckpt_path=ckpt_path)
    return callback, trainer


def test_a_step_is_counted_once_and_multiplied_by_the_steps(tmp_path):
    callback, trainer = fit(tmp_path, 2)
    assert callback.flops_per_step == 2 * (2 * 4 * 3 * 5)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert describe_run(tmp_path / "two.ckpt")["training_flops"] == 2 * 240

    resumed, trainer = fit(tmp_path, 5, tmp_path / "two.ckpt")
    assert resumed.counter is None
    assert resumed.flops_per_step == 240
    trainer.save_checkpoint(tmp_path / "five.ckpt")
    assert describe_run(tmp_path / "five.ckpt")["training_flops"] == 5 * 240
