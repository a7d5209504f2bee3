import csv

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from ldm_text.training_health import LogTrainingHealth


@pytest.fixture
def logged(fit, tmp_path):
    """Train four steps; return what each log holds, by step."""

    def run(module, batch, **options):
        logger = CSVLogger(tmp_path, name=str(len(list(tmp_path.iterdir()))))
        callbacks = [LogTrainingHealth()]
        options = {"log_every_n_steps": 2, "callbacks": callbacks, "logger": logger} | options
        fit(module, batch, max_steps=4, batch_size=4, **options)
        with open(logger.experiment.metrics_file_path) as file:
            rows = list(csv.DictReader(file))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]

    return run


@pytest.fixture
def batch(make_texts):
    return make_texts() | {"row": torch.arange(8)}


def test_a_denoiser_logs_gradients_latents_and_errors_by_time(logged, make_lit_denoiser, batch):
    module = make_lit_denoiser(active=True)
    latents = module.encode(batch, "input")
    module.autoencoder.statistics.measure(latents.flatten(0, 1))
    rows = [row for row in logged(module, batch) if "train/grad_norm" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["train/grad_norm"] > 0
        assert row["train/latent_rms"] == pytest.approx(1, abs=0.2)
        assert row["train/pred_latent_rms"] > 0
        names = [name for name in row if name.startswith("train/loss_t_")]
        assert names
        assert all(row[name] > 0 for name in names)


def test_gradients_are_measured_before_they_are_clipped(logged, make_lit_autoencoder, make_texts):
    texts = make_texts()
    batch = texts | {"document_ids": torch.zeros(8, 3, dtype=torch.long)}
    free = logged(make_lit_autoencoder(), batch)
    torch.manual_seed(0)
    clipped = logged(make_lit_autoencoder(), batch, gradient_clip_val=1e-9)
    first = [next(row for row in rows if "train/grad_norm" in row) for rows in (free, clipped)]
    assert all(row["train/grad_norm"] > 1e-3 for row in first)
