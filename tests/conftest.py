"""Factories that return real classes at toy size, on the CPU."""

import os
import sys
from functools import partial

# Networks of toy size are slower on several threads, above all where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from autoencoder import LatentCorruption, LitAutoencoder, TextAutoencoder
from denoiser import LatentDenoiser, LitDenoiser
from denoiser.schedulers import make_scheduler
from ldm_text import cli

VOCAB_SIZE = 40
PAD, END, MASK = 0, 1, 2
TOY_AUTOENCODER = {
    "vocab_size": VOCAB_SIZE,
    "tokens_per_latent": 4,
    "latent_dim": 8,
    "token_dim": 16,
    "hidden_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
}
TOY_DENOISER = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2}


class Rows(Dataset):
    """The rows of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["input_ids"])

    def __getitem__(self, row):
        return {name: values[row] for name, values in self.batch.items()}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def activate():
    """Move all weights from their start, where residual branches are zero, as training does."""

    def move(module):
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.5 * weight.shape[-1] ** -0.5 * torch.randn_like(weight))
        return module

    return move


@pytest.fixture
def give_cpu(monkeypatch):
    """Let torch find some instructions, and no others."""

    def give(*names):
        found = {"avx2": True, "avx512_f": True} | dict.fromkeys(names, True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)

    return give


@pytest.fixture
def make_autoencoder(activate):
    def make(active=True, **options):
        autoencoder = TextAutoencoder(**TOY_AUTOENCODER | options)
        return activate(autoencoder) if active else autoencoder

    return make


@pytest.fixture
def make_denoiser(activate):
    def make(active=True, latent_dim=8, **options):
        denoiser = LatentDenoiser(latent_dim, **TOY_DENOISER | options)
        return activate(denoiser) if active else denoiser

    return make


@pytest.fixture
def pretrained_folder(make_autoencoder, make_denoiser, tmp_path):
    """The parts of a pipeline folder that a training reads."""
    autoencoder = make_autoencoder()
    autoencoder.statistics.measure(torch.randn(50, 8))
    autoencoder.save_pretrained(tmp_path / "autoencoder")
    make_denoiser().save_pretrained(tmp_path / "denoiser")
    make_scheduler("euler", 3.0).save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text('{"source_separator": "],"}')
    return tmp_path


@pytest.fixture
def make_texts():
    """Make a batch of random texts of 2 tokens up to a full row, the end token included."""

    def make(num_rows=8, length=12):
        lengths = torch.randint(2, length + 1, (num_rows, 1))
        lengths[0], lengths[-1] = length, 2
        positions = torch.arange(length)
        ids = torch.randint(MASK + 1, VOCAB_SIZE, (num_rows, length))
        ids = ids.masked_fill(positions == lengths - 1, END).masked_fill(positions >= lengths, PAD)
        return {"input_ids": ids, "attention_mask": positions < lengths}

    return make


@pytest.fixture
def make_pairs(make_texts):
    """Make rows of a text and its source, as the data module makes them."""

    def make(num_rows=8):
        sources = make_texts(num_rows, length=8)
        return make_texts(num_rows) | {
            "source_ids": sources["input_ids"],
            "source_mask": sources["attention_mask"],
        }

    return make


@pytest.fixture
def make_loader():
    def make(batch, batch_size=8, **options):
        return DataLoader(Rows(batch), batch_size=batch_size, **options)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    def make(max_steps=1, **options):
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        options = quiet | options
        return Trainer(max_steps=max_steps, accelerator="cpu", default_root_dir=tmp_path, **options)

    return make


@pytest.fixture
def fit(make_loader, make_trainer):
    """Train a module on the rows of one batch."""

    def run(module, batch, max_steps, batch_size=8, shuffle=False, **options):
        loader = make_loader(batch, batch_size=batch_size, shuffle=shuffle)
        options = {"limit_val_batches": 0} | options
        trainer = make_trainer(max_steps, **options)
        trainer.fit(module, loader, make_loader(batch, batch_size=batch_size))
        return trainer

    return run


@pytest.fixture
def validate(make_loader, make_trainer):
    """Return what a module logs on the rows of one batch; the last of its batches is smaller."""

    def run(module, batch):
        loader = make_loader(batch, batch_size=5)
        return make_trainer().validate(module, loader, verbose=False)[0]

    return run


@pytest.fixture
def assert_same_model():
    """Compare two diffusers models, configurations and weights, bit for bit."""

    def compare(loaded, original):
        configs = [
            {name: value for name, value in model.config.items() if not name.startswith("_")}
            for model in (loaded, original)
        ]
        assert configs[0] == configs[1]
        weights, expected = loaded.state_dict(), original.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)

    return compare


def make_module(module_class: type[LightningModule], **options):
    options = {"optimizer": partial(torch.optim.AdamW, lr=3e-3), "warmup_steps": 0} | options
    return module_class(**options)


@pytest.fixture
def make_lit_autoencoder(make_autoencoder):
    def make(**options):
        if "autoencoder" not in options:
            options["autoencoder"] = make_autoencoder(active=False)
        toy = {"corruption": LatentCorruption(), "lr_schedule": "linear"}
        return make_module(LitAutoencoder, **toy | options)

    return make


@pytest.fixture
def make_lit_denoiser(make_autoencoder, activate):
    def make(active=False, **options):
        if "autoencoder" not in options:
            options["autoencoder"] = make_autoencoder()
        toy = {"denoiser": partial(LatentDenoiser, **TOY_DENOISER), "lr_schedule": "linear"}
        module = make_module(LitDenoiser, **toy | options)
        if active:
            activate(module.denoiser)
        return module

    return make


@pytest.fixture(scope="session")
def call_main():
    """Run the command line in this process; return its exit code."""

    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ldm-text", *map(str, arguments)])
            patch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")  # which training sets for good
            try:
                cli.main()
            except SystemExit as stop:
                return stop.code
        return 0

    return call


@pytest.fixture
def main(call_main, capsys):
    """Run the command line; return its exit code, standard output and standard error."""

    def run(*arguments):
        code = call_main(*arguments)
        return code, *capsys.readouterr()

    return run
