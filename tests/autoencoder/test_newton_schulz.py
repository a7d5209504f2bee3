import pytest
import torch
from torch.optim import Muon

from autoencoder.newton_schulz import StackedMuon, orthogonalize

MUON = {"coefficients": (3.4445, -4.7750, 2.0315), "num_iterations": 5, "eps": 1e-7}


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_singular_values_come_to_lie_at_about_one_and_directions_stay(shape):
    matrices = torch.randn(3, *shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = left.mT @ orthogonalize(matrices, **MUON) @ right.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), atol=1e-4, rtol=0)
    assert diagonal.min() > 0.3  # the smallest of a random square matrix are not there yet
    assert diagonal.max() < 1.3


def test_one_iteration_is_the_polynomial_of_the_singular_values():
    values = torch.tensor([0.8, 0.6])  # of norm 1 together
    (matrix,) = orthogonalize(torch.diag(values)[None], (2.0, -1.5, 0.5), 1, 1e-7)
    expected = 2.0 * values - 1.5 * values**3 + 0.5 * values**5
    torch.testing.assert_close(matrix, torch.diag(expected))


def test_a_matrix_is_alone_in_its_stack():
    matrices = torch.randn(4, 8, 6)
    together = orthogonalize(matrices, **MUON)
    for number in range(4):
        alone = orthogonalize(1000 * matrices[number : number + 1], **MUON)  # no size counts
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-4)


def test_a_gradient_of_zeros_moves_nothing():
    assert orthogonalize(torch.zeros(1, 4, 3), **MUON).count_nonzero() == 0


@pytest.mark.parametrize("instructions", [(), ("avx512_bf16",)])
def test_steps_are_those_of_pytorch(give_cpu, instructions):
    give_cpu(*instructions)
    shapes = [(8, 4), (6, 6), (8, 4), (4, 8)]
    ours = [torch.randn(shape).requires_grad_() for shape in shapes]
    theirs = [weight.detach().clone().requires_grad_() for weight in ours]
    start = [weight.detach().clone() for weight in ours]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = [StackedMuon(ours, **options)]
    optimizers += [Muon(theirs, adjust_lr_fn="match_rms_adamw", **options)]
    for _ in range(3):
        for first, second in zip(ours, theirs, strict=True):
            first.grad = torch.randn(first.shape)
            second.grad = first.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for first, second, before in zip(ours, theirs, start, strict=True):
        moved = (second - before).norm()
        assert moved > 0.1
        assert (first - second).norm() < 0.03 * moved  # theirs computes in bfloat16


def test_the_type_is_float32_where_bfloat16_is_emulated(give_cpu, monkeypatch):
    types = []

    def remember(matrices, *_):
        types.append((matrices.dtype, matrices.shape))
        return matrices

    monkeypatch.setattr("autoencoder.newton_schulz.orthogonalize", remember)
    weights = [torch.ones(3, 2).requires_grad_() for _ in range(2)]
    optimizer = StackedMuon(weights)
    for weight in weights:
        weight.grad = torch.ones(3, 2)
    for instructions in ((), ("amx_bf16",)):
        give_cpu(*instructions)
        optimizer.step()
    assert types == [(torch.float32, (2, 3, 2)), (torch.bfloat16, (2, 3, 2))]


def test_a_matrix_without_a_gradient_stays():
    weights = [torch.ones(3, 2).requires_grad_() for _ in range(2)]
    weights[1].grad = torch.ones(3, 2)
    StackedMuon(weights).step()
    assert torch.equal(weights[0], torch.ones(3, 2))
    assert not torch.equal(weights[1], torch.ones(3, 2))
