import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from denoiser.training import LitDenoiser
from ldm_text.log_diagnostics import LogDiagnostics, diagnose_latents, documents_of

QUANTITIES = {
    "noise_recovery",
    "noise_shift",
    "midpoint_agreement",
    "latents_owed",
    "participation_ratio",
    "active_channels",
}


@pytest.fixture
def packed(make_texts):
    """Rows of 24 tokens, each with a text of up to 12, a latent of padding and another text."""
    first, second = make_texts(), make_texts(length=8)
    parts = (first, {name: values[:, :4] * 0 for name, values in first.items()}, second)
    batch = {name: torch.cat([part[name] for part in parts], dim=1) for name in first}
    batch["attention_mask"] = batch["attention_mask"].bool()
    held = batch["attention_mask"].unflatten(1, (-1, 4)).any(dim=2)
    number = torch.tensor([0, 0, 0, 0, 1, 1])
    return batch | {"document_ids": torch.where(held, number, -1)}, first, second


def test_texts_come_out_of_packed_rows_whole(packed):
    batch, first, second = packed
    ids, mask = documents_of(batch, 100)
    assert len(ids) == 16
    for row, texts in ((0, first), (1, second)):
        for number in range(8):
            text = ids[2 * number + row][mask[2 * number + row]]
            expected = texts["input_ids"][number][texts["attention_mask"][number]]
            assert torch.equal(text, expected)
    assert len(documents_of(batch, 5)[0]) == 5


def test_rows_of_one_text_are_taken_as_they_are(make_texts):
    texts = make_texts()
    ids, mask = documents_of(texts, 3)
    assert torch.equal(ids, texts["input_ids"][:3])
    assert torch.equal(mask, texts["attention_mask"][:3])


def diagnosed(autoencoder, texts):
    generator = torch.Generator().manual_seed(0)
    return diagnose_latents(autoencoder, texts["input_ids"], texts["attention_mask"], generator)


def test_a_fresh_autoencoder_recovers_more_than_one_moved_at_random(make_autoencoder, make_texts):
    """It starts as an exact linear autoencoder."""
    texts = make_texts(num_rows=16)
    fresh, moved = (diagnosed(make_autoencoder(active), texts) for active in (False, True))
    assert set(fresh) == QUANTITIES
    assert fresh["noise_recovery"] > moved["noise_recovery"] + 0.1
    assert fresh["latents_owed"] > moved["latents_owed"] + 0.2
    assert 1 <= fresh["participation_ratio"] <= fresh["active_channels"] == 8


def test_measured_statistics_have_no_say(make_autoencoder, make_texts):
    """They are updated only after this callback, at the end of the validation."""
    autoencoder, texts = make_autoencoder(active=False), make_texts(num_rows=16)
    before = diagnosed(autoencoder, texts)
    autoencoder.statistics.measure(5 * torch.randn(50, 8))
    assert diagnosed(autoencoder, texts) == before


def test_of_one_text_is_told_what_needs_no_other(make_lit_autoencoder, packed, fit):
    """The first validation ended the training where there was one text to validate with."""
    batch = {name: values[:1, :12] for name, values in packed[0].items()}
    batch["document_ids"] = batch["document_ids"][:, :3]
    options = {"limit_val_batches": 1, "callbacks": [LogDiagnostics()]}
    trainer = fit(make_lit_autoencoder(), batch, 1, **options)
    told = {name.removeprefix("val/") for name in trainer.callback_metrics} & QUANTITIES
    assert told - {"noise_shift"} == {"noise_recovery", "participation_ratio", "active_channels"}
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


def test_of_one_latent_nothing_is_told(make_autoencoder, make_texts):
    texts = {name: values[-1:] for name, values in make_texts().items()}
    assert texts["attention_mask"].sum() == 2
    assert diagnosed(make_autoencoder(), texts) == {}


def test_early_stopping_can_watch_a_quantity(make_lit_autoencoder, packed, fit):
    stop = EarlyStopping("val/noise_recovery", mode="max", patience=1, min_delta=1.0)
    module = make_lit_autoencoder()
    trainer = fit(
        module,
        packed[0],
        max_steps=10,
        callbacks=[LogDiagnostics(), stop],
        limit_val_batches=1,
        num_sanity_val_steps=1,
    )
    assert trainer.global_step == 2  # no validation is better than the first by 1
    assert {name.removeprefix("val/") for name in trainer.callback_metrics} >= QUANTITIES


def test_predictions_of_a_denoiser_are_scored(make_lit_denoiser, make_pairs, fit):
    module = make_lit_denoiser(active=True)
    assert isinstance(module, LitDenoiser)
    trainer = fit(module, make_pairs(), 1, callbacks=[LogDiagnostics()], limit_val_batches=1)
    names = [name for name in trainer.callback_metrics if name.startswith("val/predicted_t_")]
    assert len(names) == 4
    assert all(trainer.callback_metrics[name] > 0 for name in names)


def test_one_text_has_no_neighbour():
    with pytest.raises(ValueError, match="`num_texts` must be at least 2, got 1"):
        LogDiagnostics(1)
