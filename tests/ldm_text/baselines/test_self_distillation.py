"""Students of masked diffusion, on laws that are known and in training."""

from functools import partial

import pytest
import torch

from ldm_text.baselines import (
    LitSelfDistillation,
    MaskedDiffusionModel,
    PretrainedTokenModel,
    SEDDModel,
    SelfDistillation,
)
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.self_distillation import teacher_targets, token_divergence
from ldm_text.baselines.sequences import TokenBatch
from tests.ldm_text.baselines.families import SIZES
from tests.ldm_text.baselines.markov_chain import MarkovChain

MASK, END = 2, 1


class OracleModel(MaskedDiffusionModel):
    """A masked model that predicts the exact conditionals of a chain."""

    chain: MarkovChain

    def predict_logits(self, batch, noisy_ids, t):
        return self.chain.masked_posterior(noisy_ids, MASK).log().float()


def make_oracle(**options):
    model = OracleModel(vocab_size=4, hidden_dim=16, num_layers=1, num_heads=2)
    model.chain = MarkovChain(3, 4, MASK, **options)
    return model


def texts_of(chain, num_rows=512):
    """Draw texts of a chain, without a source."""
    ids = chain.sample(num_rows)
    start = torch.full_like(ids[:, :1], END)
    return TokenBatch(start, start.bool(), ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("num_teacher_steps", [2, 4])
def test_independent_tokens_leave_nothing_to_learn(divergence, num_teacher_steps):
    """What the teacher reveals on its way tells nothing about the rest."""
    oracle = make_oracle(independent=True)
    objective = SelfDistillation([1], num_teacher_steps, 8, divergence)
    loss = objective.loss(oracle, oracle, texts_of(oracle.chain), 0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_dependent_tokens_have_a_loss_that_grows_with_the_step(divergence):
    oracle = make_oracle()
    batch, objective = texts_of(oracle.chain), SelfDistillation([1, 1, 1], 2, 8, divergence)
    losses = [objective.loss(oracle, oracle, batch, index).item() for index in range(3)]
    assert 1e-3 < losses[0] < losses[1] < losses[2]


def test_a_target_is_what_the_teacher_drew_the_token_from():
    chain, seen = MarkovChain(3, 4, MASK), []

    def predict(ids):
        seen.append(ids)
        return chain.masked_posterior(ids, MASK).log()

    ids = chain.sample(4000)
    ids[:, 1] = MASK
    ids[::2, 2] = MASK
    point = torch.full((4000,), 3)
    targets, is_unmasked = teacher_targets(predict, ids, point, 2, MASK)
    # Two steps of sixths, down from a half: a third of what is masked is revealed.
    assert is_unmasked[ids == MASK].double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert not is_unmasked[ids != MASK].any()
    assert torch.equal(seen[0], ids)
    is_first = (seen[1] != MASK) & (ids == MASK)
    first, second = (chain.masked_posterior(noisy, MASK).log() for noisy in seen)
    assert torch.equal(targets[is_first], first[is_first])
    is_second = is_unmasked & ~is_first
    assert torch.equal(targets[is_second], second[is_second])
    assert not torch.allclose(first[is_second], second[is_second])


def test_the_last_step_reveals_all():
    chain = MarkovChain(3, 4, MASK)
    ids = torch.full((100, 3), MASK)
    _, is_unmasked = teacher_targets(
        lambda ids: chain.masked_posterior(ids, MASK).log(), ids, torch.ones(100), 3, MASK
    )
    assert is_unmasked.all()


def test_divergences_are_those_of_their_definition():
    student, teacher = (torch.randn(2, 5).double().log_softmax(dim=-1) for _ in range(2))
    for name, (p, q) in {"reverse": (student, teacher), "forward": (teacher, student)}.items():
        expected = sum(p[:, v].exp() * (p[:, v] - q[:, v]) for v in range(5))
        assert torch.allclose(token_divergence(student, teacher, name), expected)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_tokens_that_cannot_be_have_no_part_in_loss_and_gradient(divergence):
    logits = torch.randn(2, 5, requires_grad=True)
    student = logits.index_fill(1, torch.tensor([3]), -torch.inf).log_softmax(dim=-1)
    teacher = torch.randn(2, 5).index_fill(1, torch.tensor([3]), -torch.inf).log_softmax(dim=-1)
    token_divergence(student, teacher, divergence).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 3] == 0).all()


class TableModel(torch.nn.Module):
    """A student with one prediction for each position, of texts of which nothing is visible."""

    def __init__(self, oracle):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(3, 4))
        self.config = oracle.config

    def predict_logits(self, batch, noisy_ids, t):
        assert (noisy_ids == MASK).all()
        logits = self.logits.expand(len(noisy_ids), -1, -1).clone()
        logits[..., MASK] = -torch.inf
        return logits


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_a_student_of_one_step_becomes_the_mean_of_the_paths_of_its_teacher(divergence):
    """Forward, that is the oracle's own prediction; reverse, one that is surer of its tokens."""
    oracle = make_oracle()
    oracle.chain.probs = oracle.chain.probs**3 / (oracle.chain.probs**3).sum()  # depend more
    student, objective = TableModel(oracle), SelfDistillation([1], 4, 4, divergence)
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=0.1), []
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 80)
        optimizer.zero_grad()
        losses.append(objective.loss(student, oracle, texts_of(oracle.chain, 300), 0))
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-10:]) / 10 < 0.9 * losses[0]  # most of it no student can avoid
    masked = torch.full((8000, 3), MASK)
    targets, _ = teacher_targets(
        lambda ids: oracle.chain.masked_posterior(ids, MASK).log(),
        masked,
        torch.ones(8000),
        4,
        MASK,
    )
    marginal = oracle.chain.masked_posterior(masked[:1], MASK)[0]
    geometric_mean = targets.mean(dim=0).softmax(dim=-1)
    learned = student.predict_logits(None, masked[:1], None)[0].softmax(dim=-1)
    expected = geometric_mean if divergence == "reverse" else marginal
    assert torch.allclose(learned.double(), expected, atol=0.02)
    assert (geometric_mean - marginal).abs().max() > 0.06


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"round_steps": []}, "`round_steps` must be 1 or larger, one a round, got"),
        ({"num_teacher_steps": 1}, "`num_teacher_steps` must be 2 or larger, got 1"),
        ({"start_num_inference_steps": 6}, "must be a multiple of 4, the factor by which 2 rounds"),
        ({"divergence": "mse"}, "`divergence` must be 'reverse' or 'forward', got 'mse'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SelfDistillation(**{"round_steps": [5, 5]} | options)


@pytest.fixture
def pretrained_folder(toy_tokenizer, activate, tmp_path):
    def make(model_class=MaskedDiffusionModel):
        model = activate(model_class(vocab_size=len(toy_tokenizer), **SIZES))
        TokenPipeline(toy_tokenizer, model, 16, 24).save_pretrained(tmp_path / "pipeline")
        return str(tmp_path / "pipeline")

    return make


@pytest.fixture
def make_module(pretrained_folder):
    def make(round_steps, **options):
        toy = {"optimizer": partial(torch.optim.AdamW, lr=3e-3), "warmup_steps": 0}
        objective = SelfDistillation(round_steps, 2, 16)
        return LitSelfDistillation(
            PretrainedTokenModel(pretrained_folder()), objective, **toy | options
        )

    return make


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_student_of_a_round_is_the_teacher_of_the_next(make_module, make_texts, fit):
    module = make_module([2, 2])
    start = weights_of(module.token_model)
    assert same(start, weights_of(module.teacher))
    teachers, step = [], module.training_step

    def recorded(batch, batch_idx):
        teachers.append((module.num_inference_steps, weights_of(module.teacher)))
        return step(batch, batch_idx)

    module.training_step = recorded
    fit(module, make_texts(16), max_steps=4)
    assert [steps for steps, _ in teachers] == [8, 8, 4, 4]
    assert same(teachers[1][1], start)
    assert not same(teachers[2][1], start)
    assert same(teachers[2][1], teachers[3][1])
    assert not any(weight.requires_grad for weight in module.teacher.parameters())


def test_only_the_first_teacher_is_guided(make_module, make_texts, fit, monkeypatch):
    """Later ones are students, which have guidance folded in."""
    module = make_module([2, 2], guidance_scale=2.0)
    scales, loss = [], SelfDistillation.loss

    def recorded(objective, student, teacher, batch, round_index, guidance_scale):
        scales.append((round_index, guidance_scale))
        return loss(objective, student, teacher, batch, round_index, guidance_scale)

    monkeypatch.setattr(SelfDistillation, "loss", recorded)
    fit(module, make_texts(16), max_steps=4)
    assert scales == [(0, 2.0), (0, 2.0), (1, 1.0), (1, 1.0)]


def test_a_short_training_lowers_the_divergence(make_module, make_texts, activate, fit):
    module, batch = make_module([40]), make_texts(32)
    activate(module.token_model)  # away from the teacher

    def divergence():
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            rows = module.arranged(batch)
            return module.objective.loss(module.token_model, module.teacher, rows, 0).item()

    before = divergence()
    fit(module, batch, max_steps=40, batch_size=32)
    assert divergence() < 0.5 * before


def test_a_training_longer_than_its_rounds_is_refused(make_module, make_texts, fit):
    with pytest.raises(ValueError, match=r"`trainer.max_steps` must be at most 2"):
        fit(make_module([1, 1]), make_texts(16), max_steps=3)


def test_only_masked_models_are_taken(pretrained_folder):
    pretrained = PretrainedTokenModel(pretrained_folder(SEDDModel))
    with pytest.raises(ValueError, match="`token_teacher` must be a MaskedDiffusionModel"):
        LitSelfDistillation(pretrained, SelfDistillation([1]), torch.optim.AdamW)


def test_a_model_of_another_vocabulary_is_refused(pretrained_folder, tmp_path):
    with pytest.raises(ValueError, match="trained with vocab_size=300, the data module has 5"):
        PretrainedTokenModel(pretrained_folder(), vocab_size=5)
    with pytest.raises(FileNotFoundError, match="No baseline at `none`"):
        PretrainedTokenModel("none")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is damaged or cut, or no checkpoint"):
        PretrainedTokenModel(str(tmp_path / "bad.ckpt"))
