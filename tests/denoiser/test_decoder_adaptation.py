from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback

from autoencoder.training import reconstruction_loss
from denoiser import LitDecoderAdaptation
from denoiser.decoder_adaptation import token_losses

BATCH_SIZE = 32
still = partial(torch.optim.SGD, lr=1e-9)


@pytest.fixture
def batch(make_pairs):
    """Rows of eight texts, each with one source."""
    return {name: values.repeat(4, 1) for name, values in make_pairs().items()}


@pytest.fixture
def trained(make_lit_autoencoder, fit, batch):
    """An autoencoder that reads clean latents well."""
    stage_1 = make_lit_autoencoder(max_token_mask_prob=0.0)
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    packed = texts | {"document_ids": torch.zeros(BATCH_SIZE, 3, dtype=torch.long)}
    fit(stage_1, packed, max_steps=60, batch_size=BATCH_SIZE)
    autoencoder = stage_1.autoencoder.eval().requires_grad_(False)
    latents = autoencoder.encode(texts["input_ids"], texts["attention_mask"])
    autoencoder.statistics.measure(latents.flatten(0, 1))
    return autoencoder


@pytest.fixture
def make_module(make_autoencoder, make_denoiser):
    """Adapt an autoencoder, by default one of random weights, to a denoiser of random weights."""

    def make(autoencoder=None, **options):
        pretrained = SimpleNamespace(
            autoencoder=make_autoencoder() if autoencoder is None else autoencoder,
            denoiser=make_denoiser().eval().requires_grad_(False),
            noise_shift=4.0,
        )
        toy = {"optimizer": partial(torch.optim.AdamW, lr=3e-3), "warmup_steps": 0}
        return LitDecoderAdaptation(pretrained, **toy | options)

    return make


def weights_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_token_losses_average_to_the_reconstruction_loss_of_equal_rows(batch):
    logits = torch.randn(BATCH_SIZE, 12, 40)
    losses = token_losses(logits, batch)
    row = {name: values[3:4] for name, values in batch.items()}
    assert losses.shape == (BATCH_SIZE,)
    assert losses[3].item() == pytest.approx(reconstruction_loss(logits[3:4], row).item(), rel=1e-5)


def test_only_the_decoder_moves(make_module, batch, fit):
    module = make_module()
    before = weights_of(module)
    fit(module, batch, max_steps=2, batch_size=BATCH_SIZE)
    for name, value in module.state_dict().items():
        moves = name.startswith("autoencoder.decoder.")
        assert torch.equal(value, before[name]) != moves, name


def test_predicted_latents_are_read_better_and_clean_ones_within_the_bound(
    make_module, trained, batch, fit, validate
):
    module = make_module(trained, clean_share=0.25, max_accuracy_loss=0.02)
    before = validate(module, batch)
    assert before["val/token_accuracy"] > 0.95
    assert before["val/token_accuracy_lost"] == 0
    fit(module, batch, max_steps=150, batch_size=BATCH_SIZE)
    after = validate(module, batch)
    assert after["val/decoder_loss"] < 0.75 * before["val/decoder_loss"]
    assert after["val/token_accuracy_lost"] <= 0.02


@pytest.fixture
def forgetful(make_module, trained):
    """An adaptation that trains by all but nothing, and whose decoder has forgotten the latents."""
    module = make_module(trained, clean_share=0.0, max_accuracy_loss=0.02, optimizer=still)
    with torch.no_grad():
        module.autoencoder.decoder.latent_projection.weight.mul_(-1)
    return module


ONE_VALIDATION = {"batch_size": BATCH_SIZE, "limit_val_batches": 1, "num_sanity_val_steps": 0}


class StopAfterOneStep(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True


def test_a_decoder_that_forgets_clean_latents_ends_the_training_in_its_second_half(
    forgetful, batch, fit
):
    """The first of two steps is its middle."""
    message = "fewer tokens right from clean latents, more than `max_accuracy_loss` 2.00%"
    with pytest.raises(ValueError, match=message):
        fit(forgetful, batch, max_steps=2, **ONE_VALIDATION)


def test_a_decoder_that_forgets_clean_latents_may_go_on_in_the_first_half(forgetful, batch, fit):
    stop = StopAfterOneStep()
    trainer = fit(forgetful, batch, max_steps=4, callbacks=[stop], **ONE_VALIDATION)
    assert trainer.global_step == 1
    assert trainer.callback_metrics["val/token_accuracy_lost"] > 0.02


def test_a_second_validation_counts_its_own_tokens_alone(make_module, trained, batch, validate):
    """The first has found nothing lost."""
    module = make_module(trained)
    assert validate(module, batch)["val/token_accuracy_lost"] == 0
    with torch.no_grad():
        module.autoencoder.decoder.latent_projection.weight.mul_(-1)
    again = validate(module, batch)
    other = make_module(trained)
    other.original_decoder = module.original_decoder
    alone = validate(other, batch)
    assert again["val/token_accuracy_lost"] > 0.02
    for name in ("val/token_accuracy_lost", "val/token_accuracy"):
        assert again[name] == pytest.approx(alone[name], abs=1e-6)


def test_losses_of_a_validation_are_those_of_all_tokens(make_module, batch, validate):
    """Nats a token: the short texts of a batch must not count as much as the long ones."""
    few = {name: values[:8] for name, values in batch.items()}
    module = make_module()
    module.autoencoder.statistics.measure(3 * torch.randn(50, 8) + 1)
    found = validate(module, few)  # batches of 5 and 3 rows
    clean, predicted = [], []
    for number, rows in enumerate((slice(5), slice(5, 8))):
        part = {name: values[rows] for name, values in few.items()}
        with torch.no_grad():
            latents = module.latents(part, "input")
            clean.append(module.decode(latents))
            torch.manual_seed(number)
            predicted.append(
                module.decode(module.predict(latents, module.known_latents(part, latents)))
            )
    for name, logits in {"val/reconstruction": clean, "val/decoder_loss": predicted}.items():
        expected = reconstruction_loss(torch.cat(logits), few).item()
        assert found[name] == pytest.approx(expected, rel=1e-5)


def test_shares_are_rows_of_their_kind(make_module, batch):
    """Clean rows come first and are exact; sampled ones do not see the text of the row."""
    module = make_module(clean_share=0.25, sampled_share=0.5, num_inference_steps=2)
    other = batch | {"input_ids": batch["input_ids"].flip(0)}
    seen = []
    module.decode = lambda latents: seen.append(latents) or torch.randn(len(latents), 12, 40)
    for one in (batch, other):
        torch.manual_seed(1)
        module.loss(one | {"attention_mask": batch["attention_mask"]})
    assert torch.equal(seen[0][:8], module.latents(batch, "input")[:8])
    assert torch.allclose(seen[0][8:24], seen[1][8:24], atol=1e-5)
    assert not torch.allclose(seen[0][24:], seen[1][24:], atol=1e-2)


def test_batches_of_one_row_are_of_all_kinds(make_module, batch):
    """They once were never clean, as a half was rounded to none."""
    module = make_module(clean_share=0.5, sampled_share=0.25, num_inference_steps=1)
    kinds = []
    module.sample = lambda noise, known: kinds.append("sampled") or noise
    module.predict = lambda latents, known: kinds.append("predicted") or latents
    row = {name: values[:1] for name, values in batch.items()}
    with torch.no_grad():
        for _ in range(200):
            module.loss(row)
    assert kinds.count("sampled") == pytest.approx(50, abs=25)  # a standard error of 6
    assert kinds.count("predicted") == pytest.approx(50, abs=25)


def test_a_sample_takes_the_steps_that_are_asked_for(make_module, batch):
    module = make_module(num_inference_steps=3)
    times = []
    module.denoiser.register_forward_pre_hook(lambda _, inputs: times.append(inputs[1][0].item()))
    latents = module.latents(batch, "input")
    module.sample(torch.randn_like(latents), module.known_latents(batch, latents))
    assert len(times) == 3
    assert times == sorted(times, reverse=True)


def test_a_share_of_the_predicted_rows_sees_an_earlier_prediction(make_module, batch):
    module = make_module()
    latents = module.latents(batch, "input")
    found = []
    for module.self_condition_prob in (0.0, 0.25):
        torch.manual_seed(2)
        found.append(module.predict(latents, module.known_latents(batch, latents)))
    is_same = torch.isclose(*found, atol=1e-4).all(dim=2).all(dim=1)
    assert is_same.tolist() == [False] * 8 + [True] * 24


def test_guidance_changes_predictions_and_rows_without_source_pass(make_module, batch):
    plain = make_module()
    guided = make_module(plain.autoencoder, guidance_scale=3.0)
    guided.denoiser = plain.denoiser
    latents = plain.latents(batch, "input")
    found = []
    for module in (plain, guided):
        torch.manual_seed(2)
        found.append(module.predict(latents, module.known_latents(batch, latents)))
    assert not torch.allclose(*found, atol=1e-2)
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.isfinite(plain.loss(texts)["loss"])


def test_rows_of_several_documents_are_refused(make_module, batch):
    packed = batch | {"document_ids": torch.zeros(BATCH_SIZE, 3, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"`data\.init_args\.layout` must be rows"):
        make_module().loss(packed)


def test_original_decoder_is_that_of_the_autoencoder(make_module, batch):
    module = make_module()
    latents = torch.randn(2, 3, 8)
    original = F.linear(module.original_decoder(latents, None), module.autoencoder.embedding.weight)
    assert torch.equal(original, module.autoencoder.decode(latents))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_share": 0.7, "sampled_share": 0.4}, "nor more than 1 together, got 0.7 and 0.4"),
        ({"sampled_share": -0.1}, "must not be negative"),
        ({"max_accuracy_loss": 1.5}, r"`max_accuracy_loss` must be in \[0, 1\], got 1.5"),
    ],
)
def test_shares_and_bounds_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LitDecoderAdaptation(None, torch.optim.AdamW, **options)
