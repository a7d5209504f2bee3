"""Muon on all matrices of a shape at once, in a type that the device computes in."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from autoencoder.bfloat16 import has_native_bfloat16


def orthogonalize(
    matrices: Tensor, coefficients: tuple[float, float, float], num_iterations: int, eps: float
) -> Tensor:
    """Push all singular values of matrices to about 1 (Jordan et al. 2024).

    Each iteration maps every singular value ``s`` to ``a s + b s^3 + c s^5``. With Muon's
    coefficients it comes to lie between 0.7 and 1.2 in 5 iterations, not at 1: they were chosen for
    the steepest rise of small ones.

    Args:
        matrices: Shape ``(N, rows, columns)``, in the type to compute in.
        coefficients: ``a``, ``b`` and ``c``.
        num_iterations: Iterations.
        eps: Least norm of a matrix, for one of zeros.

    Returns:
        Matrices of the same shape and type.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices  # the product with itself is then the smaller one
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=eps)
    for _ in range(num_iterations):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, polynomial, wide, beta=a)
    return wide.mT if tall else wide


class StackedMuon(Optimizer):
    """Muon with Nesterov's momentum and updates of the size of AdamW's (Liu et al. 2025).

    ``torch.optim.Muon`` takes one matrix after the other, and in bfloat16 everywhere: where a CPU
    emulates that, a step takes twenty times as long as in float32, which is taken there.

    Args:
        params: Matrices.
        lr: Learning rate, for updates that AdamW might make.
        momentum: Decay of the average of the gradients.
        weight_decay: Decoupled, as AdamW's.
        coefficients: Of ``orthogonalize``.
        num_iterations: Of ``orthogonalize``.
        eps: Of ``orthogonalize``.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        num_iterations: int = 5,
        eps: float = 1e-7,
    ) -> None:
        options = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "coefficients": coefficients,
            "num_iterations": num_iterations,
            "eps": eps,
        }
        super().__init__(params, options)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step with the gradients that are there."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                updates = [self._update(weight, group["momentum"]) for weight in weights]
                native = has_native_bfloat16(updates[0].device)
                directions = orthogonalize(
                    torch.stack(updates).to(torch.bfloat16 if native else torch.float32),
                    group["coefficients"],
                    group["num_iterations"],
                    group["eps"],
                )
                # Singular values of 1 make entries of 1 / sqrt(the longer side); AdamW's are 0.2.
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for weight, direction in zip(weights, directions.unbind(), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(direction, alpha=-rate)

    def _update(self, weight: Tensor, momentum: float) -> Tensor:
        """Average the gradients of a weight, and look ahead as Nesterov does."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)
