"""Classes of gaussian latents, whose posterior is known, and a classifier trained on them."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn

from denoiser.attribute_guidance import AttributeTarget, guide_to_attributes
from denoiser.latent_classifier import LatentClassifier
from denoiser.noise import add_noise, linear_estimate, sample_time
from denoiser.sampling import StepControl, denoise
from denoiser.schedulers import make_scheduler

STD = 0.4
MEANS = torch.tensor([[[0.9, -0.8]], [[-0.9, 0.8]]]).expand(2, 2, 2)  # of each class, (L, D)


def class_log_probs(noisy_latents, t):
    """Log-probabilities ``(B, 2)`` of two equally frequent classes, up to a constant."""
    centres = (1 - t)[:, None, None, None] * MEANS
    distance = (noisy_latents[:, None] - centres).square().sum(dim=(2, 3))
    return (-distance / (2 * (((1 - t) * STD) ** 2 + t**2)[:, None])).log_softmax(dim=1)


def posterior_mean(noisy_latents, t, label):
    """The expected latents of a class, given the noisy ones."""
    t = t[:, None, None]
    gain = (1 - t) * STD**2 / (((1 - t) * STD) ** 2 + t**2)
    return MEANS[label] + gain * (noisy_latents - (1 - t) * MEANS[label])


class ExactDenoiser(nn.Module):
    """The expected latents of both classes together."""

    def forward(self, noisy_latents, t, known_latents, known_mask, is_null, self_condition=None):
        weights = class_log_probs(noisy_latents, t).exp()
        return sum(
            weights[:, label, None, None] * posterior_mean(noisy_latents, t, label)
            for label in range(2)
        )


class ExactClassifier(nn.Module):
    """The probabilities of the classes, written for linear estimates of the latents."""

    def classify_estimate(self, estimate, t):
        variance = ((1 - t) * STD) ** 2 + t**2
        scale = (1 - t) ** 2 + t**2
        product = torch.einsum("bld,cld->bc", estimate, MEANS)
        norm = (1 - t)[:, None] ** 2 * MEANS.square().sum(dim=(1, 2)) / 2
        return (scale[:, None] * product - norm) / variance[:, None]


def draw(num_rows):
    labels = torch.randint(2, (num_rows,))
    return MEANS[labels] + STD * torch.randn(num_rows, 2, 2), labels


@pytest.fixture(scope="module")
def classifier():
    """A classifier that was trained for a few seconds."""
    torch.manual_seed(0)
    network = LatentClassifier(2, "side", ["left", "right"], "toy", 32, 1, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(300):
        latents, labels = draw(128)
        t = sample_time(128, 2.0)
        logits = network(add_noise(latents, torch.randn_like(latents), t), t)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


class Guided(StepControl):
    def __init__(self, *targets):
        self.targets = targets

    def guide(self, pred_latents, noisy_latents, t):
        return guide_to_attributes(pred_latents, noisy_latents, t, self.targets)


def sample(*targets, num_rows=256):
    return denoise(
        ExactDenoiser(),
        make_scheduler("euler", 2.0),
        ClassifierFreeGuidance(1.0),
        torch.randn(num_rows, 2, 2, generator=torch.Generator().manual_seed(1)),
        torch.zeros(num_rows, 1, 2),
        torch.ones(num_rows, 1, dtype=torch.bool),
        16,
        control=Guided(*targets),
    )


def share_of(latents, label):
    return (class_log_probs(latents, torch.zeros(len(latents))).argmax(1) == label).float().mean()


@pytest.mark.parametrize("time", [0.05, 0.5, 0.95, 1.0])
def test_the_exact_classifier_turns_the_posterior_into_that_of_its_class(time):
    """Bayes' rule, at all times, pure noise included."""
    t = torch.full((64,), time)
    noisy_latents = add_noise(draw(64)[0], torch.randn(64, 2, 2), t)
    mixed = ExactDenoiser()(noisy_latents, t, None, None, None)
    for label in range(2):
        guided = guide_to_attributes(
            mixed, noisy_latents, t, [AttributeTarget(ExactClassifier(), label)]
        )
        expected = posterior_mean(noisy_latents, t, label)
        assert torch.allclose(guided, expected, atol=2e-5)


def test_a_trained_classifier_tells_the_classes_and_knows_when_it_cannot(classifier):
    latents, labels = draw(512)
    accuracies, log_probs = [], []
    for time in (0.1, 0.999):
        t = torch.full((512,), time)
        logits = classifier(add_noise(latents, torch.randn_like(latents), t), t)
        accuracies.append((logits.argmax(1) == labels).float().mean())
        log_probs.append(F.cross_entropy(logits, labels))
    assert accuracies[0] > 0.98
    assert accuracies[1] < 0.6
    assert log_probs[1] < 0.75  # nearly ln 2: it is not certain of what it cannot know


def test_a_fresh_classifier_finds_all_classes_equally_probable():
    network = LatentClassifier(2, "side", ["a", "b", "c"], "toy", 32, 1, 2)
    assert torch.equal(network(torch.randn(4, 2, 2), torch.rand(4)), torch.zeros(4, 3))


def test_guidance_leads_samples_into_the_class(classifier):
    assert 0.35 < share_of(sample(), 1) < 0.65
    for label in range(2):
        guided = sample(AttributeTarget(classifier, label))
        assert share_of(guided, label) > 0.9
        far = (guided - MEANS[label]).abs().mean()
        assert far < 2 * STD  # into the class, not beyond it


def test_guidance_raises_the_probability_with_its_scale(classifier):
    t = torch.zeros(256)
    found = [
        classifier(sample(*targets), t).log_softmax(1)[:, 1].mean()
        for targets in ([AttributeTarget(classifier, 1, scale)] for scale in (0.0, 0.5, 2.0))
    ]
    assert found[0] < found[1] < found[2]


def test_scale_0_is_no_guidance_bit_for_bit(classifier):
    assert torch.equal(sample(AttributeTarget(classifier, 1, 0.0)), sample())


def test_gradients_of_several_attributes_add_up(classifier):
    noisy_latents, t, pred = torch.randn(8, 2, 2), torch.rand(8), torch.zeros(8, 2, 2)
    first, second = AttributeTarget(classifier, 0, 2.0), AttributeTarget(ExactClassifier(), 1)
    both, *each = (
        guide_to_attributes(pred, noisy_latents, t, targets)
        for targets in ([first, second], [first], [second])
    )
    assert torch.allclose(both, each[0] + each[1], atol=1e-5)


def test_a_row_is_guided_alike_alone_and_in_a_batch(classifier):
    noisy_latents, t, pred = torch.randn(8, 2, 2), torch.rand(8), torch.randn(8, 2, 2)
    targets = [AttributeTarget(classifier, 1, 3.0)]
    whole = guide_to_attributes(pred, noisy_latents, t, targets)
    for row in range(8):
        alone = (part[row : row + 1] for part in (pred, noisy_latents, t))
        assert torch.allclose(guide_to_attributes(*alone, targets)[0], whole[row], atol=1e-5)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_found_where_sampling_computes_none(classifier, context):
    targets = [AttributeTarget(classifier, 1)]
    noisy_latents, t = torch.randn(4, 2, 2), torch.rand(4)
    expected = guide_to_attributes(torch.zeros(4, 2, 2), noisy_latents, t, targets)
    with context():
        inputs = torch.zeros(4, 2, 2), noisy_latents * 1, t * 1
        assert torch.equal(guide_to_attributes(*inputs, targets), expected)


def test_the_linear_estimate_is_the_best_one():
    latents, t = torch.randn(20_000, 1, 1), torch.full((20_000,), 0.6)
    noisy_latents = add_noise(latents, torch.randn_like(latents), t)
    best = (noisy_latents * latents).mean() / noisy_latents.square().mean()
    assert torch.allclose(linear_estimate(noisy_latents, t), best * noisy_latents, atol=0.1)
