import json
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from denoiser import (
    ConsistencyDistillation,
    EMAWithWarmup,
    FlowMapDistillation,
    LitDistillation,
    PretrainedDenoiser,
    ProgressiveDistillation,
)
from denoiser.rounds import ROUND, round_learning_rate
from denoiser.schedulers import SamplingDefaults

AdamW = partial(torch.optim.AdamW, lr=3e-3)


@pytest.fixture
def batch(make_pairs):
    return make_pairs(16) | {"row": torch.arange(16)}


@pytest.fixture
def make_module(pretrained_folder):
    def make(objective, **options):
        toy = {"optimizer": AdamW, "guidance_scale": 2.0, "warmup_steps": 0}
        return LitDistillation(
            PretrainedDenoiser(str(pretrained_folder)), objective, **toy | options
        )

    return make


def test_a_teacher_that_writes_beside_known_text_is_refused(
    make_module, make_denoiser, pretrained_folder
):
    make_denoiser(infill_prob=0.5).save_pretrained(pretrained_folder / "denoiser")
    with pytest.raises(ValueError, match="its student would lose how to write beside known text"):
        make_module(ProgressiveDistillation([1, 1], [4, 2], 8))


def weights_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def guidance_of(teacher):
    return teacher.guider.config["guidance_scale"]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_student_starts_as_its_teacher_and_takes_over_what_fits_it(make_module):
    module = make_module(ProgressiveDistillation([1, 1], [4, 2], 8))
    assert same(module.denoiser.state_dict(), module.teacher.denoiser.state_dict())
    assert module.noise_shift == 3.0
    trained = {id(weight) for weight in module.parameters() if weight.requires_grad}
    assert trained == {id(weight) for weight in module.denoiser.parameters()}


@pytest.mark.parametrize("clamp_start", [0.0, 1.0])
def test_a_student_is_sampled_with_the_clamping_of_its_teacher(make_module, batch, clamp_start):
    module = make_module(ProgressiveDistillation([1], [4], 8), clamp_start=clamp_start)
    assert module.sampling == SamplingDefaults("euler", 4, 1.0, clamp_start)
    assert (module.teacher.clamping is None) == (clamp_start == 1)
    with torch.no_grad():
        latents = module.latents(batch, "input")
        pred_latents = latents + torch.randn_like(latents)
        clamped = module.teacher.clamp(pred_latents, torch.rand(len(latents)))
    assert torch.equal(clamped, pred_latents) == (clamp_start == 1)


def test_clamping_out_of_range_is_refused(make_module):
    with pytest.raises(ValueError, match=r"`clamp_start` must be between 0 and 1, got -0\.1"):
        make_module(ProgressiveDistillation([1], [4], 8), clamp_start=-0.1)


def test_each_round_learns_from_the_student_of_the_one_before(make_module, batch, fit):
    module = make_module(ProgressiveDistillation([3, 2], [4, 2], 8))
    original = weights_of(module.teacher.denoiser)
    torch.manual_seed(0)
    fit(module, batch, max_steps=3, batch_size=8)
    first_student = weights_of(module.denoiser)
    assert same(weights_of(module.teacher.denoiser), original)
    assert module.sampling == SamplingDefaults("euler", 4, 1.0)
    assert guidance_of(module.teacher) == 2.0

    module.denoiser.load_state_dict(original)
    torch.manual_seed(0)
    fit(module, batch, max_steps=5, batch_size=8)  # the first three steps are the same
    assert same(weights_of(module.teacher.denoiser), first_student)
    assert module.sampling == SamplingDefaults("euler", 2, 1.0)
    assert guidance_of(module.teacher) == 1.0
    assert not same(weights_of(module.denoiser), first_student)


def test_student_comes_closer_to_its_teacher(make_module, batch, fit):
    module = make_module(ProgressiveDistillation([60], [1], 4), cond_drop_prob=0.0)

    def error():
        torch.manual_seed(3)
        with torch.no_grad():
            return float(module.eval().loss(batch)["loss"])

    before = error()
    fit(module, batch, max_steps=60, batch_size=16)
    assert error() < 0.7 * before


def test_rows_of_several_documents_are_refused(make_module, batch):
    packed = batch | {"document_ids": torch.zeros(16, 3, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"`data\.init_args\.layout` must be rows"):
        make_module(ConsistencyDistillation(2, 8)).loss(packed)


def test_rows_whose_condition_is_dropped_are_trained_as_those_without_a_source(make_module, batch):
    module = make_module(ConsistencyDistillation(2, 8))
    texts = {name: values for name, values in batch.items() if not name.startswith("source")}

    def loss(prob, rows):
        module.cond_drop_prob = prob
        torch.manual_seed(3)
        with torch.no_grad():
            return module.loss(rows)["loss"]

    without = loss(0.0, texts)
    assert torch.allclose(loss(1.0, batch), without, rtol=1e-5)
    assert not torch.allclose(loss(0.0, batch), without, rtol=1e-3)


def test_consistency_training_is_one_round_with_lcm(make_module, batch, fit):
    module = make_module(ConsistencyDistillation(2, 8))
    before = weights_of(module.denoiser)
    trainer = fit(module, batch, max_steps=4)
    assert not same(weights_of(module.denoiser), before)
    assert same(weights_of(module.teacher.denoiser), before)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0
    assert module.sampling == SamplingDefaults("lcm", 2, 1.0)


def test_a_flow_map_is_trained_in_one_round_from_what_its_teacher_predicts(make_module, batch, fit):
    module = make_module(FlowMapDistillation(teacher_steps=4), cond_drop_prob=0.0)
    before = weights_of(module.denoiser)
    teacher = weights_of(module.teacher.denoiser)
    assert same(before | teacher, before)
    assert module.sampling == SamplingDefaults("flow_map", 2, 1.0)

    def error():
        torch.manual_seed(3)
        with torch.no_grad():
            return float(module.eval().loss(batch)["loss"])

    first = error()
    fit(module, batch, max_steps=60, batch_size=16)
    assert error() < 0.7 * first
    assert same(weights_of(module.teacher.denoiser), teacher)


def test_a_resumed_run_goes_on_in_its_round(make_module, batch):
    module = make_module(ProgressiveDistillation([1, 1], [4, 2], 8))
    checkpoint = {}
    module.begin_round(1)
    module.on_save_checkpoint(checkpoint)
    resumed = make_module(ProgressiveDistillation([1, 1], [4, 2], 8))
    resumed.on_load_checkpoint(checkpoint)
    assert checkpoint == {ROUND: 1}
    assert resumed.sampling.num_inference_steps == 2
    assert guidance_of(resumed.teacher) == 1.0


def test_validation_measures_the_student_of_the_round(make_module, batch, validate):
    metrics = validate(make_module(ProgressiveDistillation([1], [2], 4)), batch)
    assert metrics["val/loss"] > 0
    assert metrics["val/decoder_loss"] > 0


def test_a_training_longer_than_its_rounds_is_refused(make_module, batch, fit):
    module = make_module(ProgressiveDistillation([1, 1], [4, 2], 8))
    message = r"`trainer.max_steps` must be at most 2, the sum .* got 3"
    with pytest.raises(ValueError, match=message):
        fit(module, batch, max_steps=3)


@pytest.mark.parametrize(
    "objective", [ProgressiveDistillation([3, 2], [4, 2], 8), ConsistencyDistillation(2, 8)]
)
def test_a_round_that_is_all_warm_up_is_refused(make_module, batch, fit, objective):
    """Its learning rate would never fall; one step less is enough."""
    steps = 5 if objective.round_steps else 2
    message = (
        "`warmup_steps` must be less than the steps of each .* the shortest of which has 2, got 2"
    )
    with pytest.raises(ValueError, match=message):
        fit(make_module(objective, warmup_steps=2), batch, max_steps=steps)
    fit(make_module(objective, warmup_steps=1), batch, max_steps=steps)


def test_averaged_weights_are_refused_where_they_would_carry_a_round_into_the_next(
    make_module, batch, fit
):
    """The first teacher would be in the average of the second one, too."""
    module = make_module(ProgressiveDistillation([1, 1], [4, 2], 8))
    with pytest.raises(ValueError, match=r"`denoiser\.EMAWithWarmup`.* would carry a round into"):
        fit(module, batch, max_steps=2, callbacks=[EMAWithWarmup()])
    fit(make_module(ConsistencyDistillation()), batch, max_steps=1, callbacks=[EMAWithWarmup()])


def test_learning_rate_warms_up_and_falls_to_zero_in_each_round():
    rates = [round_learning_rate(step, [4, 6], 2) for step in range(11)]
    assert rates == [0, 0.5, 1, 0.5, 0, 0.5, 1, 0.75, 0.5, 0.25, 0]


def test_a_checkpoint_of_another_module_is_refused(make_lit_autoencoder, tmp_path):
    """One of a denoiser is read in the test of the tiny configurations."""
    content = make_lit_autoencoder().state_dict()
    torch.save({"state_dict": content, "pytorch-lightning_version": "2.6"}, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"`.*` is no checkpoint of a denoiser: "):
        PretrainedDenoiser(str(tmp_path / "run.ckpt"))


def test_a_teacher_that_is_none_is_refused(pretrained_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No denoiser at `.*nothing`: train one"):
        PretrainedDenoiser(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="is no folder of a latent pipeline"):
        PretrainedDenoiser(str(pretrained_folder / "denoiser"))
    with pytest.raises(ValueError, match="was trained with vocab_size=40, the data module has 41"):
        PretrainedDenoiser(str(pretrained_folder), vocab_size=41)


@pytest.mark.parametrize(
    ("trained", "given", "message"),
    [
        ("],", "", r"`source_separator` '\],', the corpus has null: set .*_separator` to '\],'"),
        (None, "],", r"`source_separator` null, the corpus has '\],': set .*_separator` to null"),
        ("],", ";", r"`source_separator` '\],', the corpus has ';'"),
        ("],", "],", None),
        (None, "", None),
        ("],", None, None),  # nothing to compare with
    ],
)
def test_a_teacher_of_other_fields_is_refused(pretrained_folder, trained, given, message):
    index = pretrained_folder / "model_index.json"
    index.write_text(json.dumps({"source_separator": trained}))
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        PretrainedDenoiser(str(pretrained_folder), source_separator=given)
