from types import SimpleNamespace

import pytest
import torch

from denoiser.latent_encoding import open_latent_cache

WEIGHTS = {"weight": torch.ones(3)}
CPU = "32-true cpu"


@pytest.fixture
def folder_of(tmp_path):
    """Open the cache of rows with a fingerprint; return the name of its folder."""

    def run(content="rows", batch_size=2, weights=WEIGHTS, setting=CPU):
        dataset = type("Rows", (list,), {"fingerprint": content})([0] * 4)
        loader = SimpleNamespace(dataset=dataset, batch_size=batch_size)
        return open_latent_cache(loader, weights, setting, str(tmp_path)).folder.name

    return run


def test_equal_content_has_one_folder(folder_of):
    assert folder_of() == folder_of(weights={"weight": torch.ones(3)})


@pytest.mark.parametrize(
    "other",
    [
        {"content": "other rows"},
        {"batch_size": 4},
        {"weights": {"weight": torch.tensor([1.0, 1.0, 2.0])}},
        {"weights": {"other": torch.ones(3)}},
        {"setting": "bf16-mixed cpu"},
        {"setting": "32-true cuda"},
    ],
)
def test_whatever_changes_latents_in_their_last_bits_has_a_folder_of_its_own(folder_of, other):
    assert folder_of(**other) != folder_of()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_tells_its_cache_precision_and_device(
    make_lit_denoiser, make_texts, fit, monkeypatch, precision
):
    settings = []

    def record(loader, weights, setting, folder):
        settings.append(setting)
        return open_latent_cache(loader, weights, setting, folder)

    monkeypatch.setattr("denoiser.training.open_latent_cache", record)
    batch = make_texts() | {"row": torch.arange(8)}
    fit(make_lit_denoiser(cache_latents=True), batch, max_steps=2, precision=precision)
    assert settings == [f"{precision} cpu"]
