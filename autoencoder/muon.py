"""Muon for the matrices of transformer blocks, AdamW for all other weights, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from autoencoder.newton_schulz import StackedMuon
from autoencoder.transformer import TransformerBlock


def block_matrices(module: nn.Module) -> list[Tensor]:
    """List the trainable matrices of all transformer blocks of a module.

    Embeddings, the projections into and out of a network, norms and biases are not among them:
    they are no maps from one hidden state to another (Jordan et al. 2024).
    """
    return [
        layer.weight
        for block in module.modules()
        if isinstance(block, TransformerBlock)
        for layer in block.modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad
    ]


class MuonWithAdamW(Optimizer):
    """Orthogonalize the updates of matrices (Muon, Jordan et al. 2024), and run AdamW on the rest.

    The updates of Muon are scaled to the size that those of AdamW have (Liu et al. 2025), so that
    both share learning rate and weight decay, and a configuration changes its optimizer alone. The
    query, key and value projections of a block are one matrix here and are orthogonalized together,
    as are gate and value of its feed-forward layer.

    The training modules tell which weights are matrices of blocks, by ``take_matrices``; before
    that no step can be taken.

    Args:
        params: All weights to train.
        lr: Learning rate.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Of both.
        momentum: Of Muon, which has Nesterov's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        weights = list(params)
        self.adamw = AdamW(weights, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.muon: StackedMuon | None = None
        self.muon_options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(weights, self.adamw.defaults)

    def take_matrices(self, module: nn.Module) -> None:
        """Give the matrices of the blocks of a module to Muon.

        Args:
            module: Module to train; of its weights those count that the optimizer was made for.

        Raises:
            ValueError: If there are none, or they are sharded: an update needs a whole matrix.
        """
        matrices = block_matrices(module)
        ours = {id(weight) for group in self.param_groups for weight in group["params"]}
        matrices = [weight for weight in matrices if id(weight) in ours]
        if not matrices:
            raise ValueError("MuonWithAdamW found no matrices of transformer blocks; use AdamW.")
        if any(isinstance(weight, DTensor) for weight in matrices):
            raise ValueError(
                "MuonWithAdamW needs whole matrices, which `--trainer.strategy fully_sharded` "
                "splits: use `--trainer.strategy ddp`, or AdamW."
            )
        self.muon = StackedMuon(matrices, **self.muon_options)
        taken = {id(weight) for weight in matrices}
        (group,) = self.param_groups
        rest = [weight for weight in group["params"] if id(weight) not in taken]
        self.param_groups = [*self.muon.param_groups, {**group, "params": rest}]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of both.

        Args:
            closure: Computes the loss anew, with its gradients.

        Returns:
            What the closure returns.

        Raises:
            RuntimeError: If ``take_matrices`` was not called.
        """
        if self.muon is None:
            raise RuntimeError("MuonWithAdamW.take_matrices(module) must be called before a step.")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # A checkpoint that was loaded has put new objects in the place of state and groups.
        self.muon.state = self.adamw.state = self.state
        self.muon.param_groups = self.param_groups[:1]
        self.adamw.param_groups = self.param_groups[1:]
        self.muon.step()
        self.adamw.step()
        return loss
