"""Compiled networks: slower to start, faster from then on."""

from collections.abc import Sequence
from typing import Any

import torch

from autoencoder.model import TextAutoencoder
from autoencoder.transformer import Linear, Transformer
from denoiser.fixed_shapes import FixedShapes
from denoiser.model import LatentDenoiser

MOST_GRAPHS = 256  # of a process; torch's own limit is 8, beyond which it stops
REST = 4  # texts that go on while others are done run at a batch size that is so much smaller


class Compilable:
    """The part of a latent pipeline that compiles its networks.

    Attributes:
        autoencoder: One of its two networks.
        denoiser: The other one.
        device: Where they are.
        shapes: Shapes that they run at.
    """

    autoencoder: TextAutoencoder
    denoiser: LatentDenoiser
    device: torch.device
    shapes: FixedShapes

    def compile(self, batch_sizes: Sequence[int] = (1, 8, 64), **options: Any) -> None:
        """Compile the transformers of the autoencoder and the denoiser, in place, to generate with.

        One block of each is compiled when it first meets a shape, and serves all blocks; what it
        computes differs by rounding alone. Sources are padded to powers of two of latents, so that
        few shapes occur. Neither the number of steps nor the guidance scale is a part of them, only
        whether there is guidance: its two branches have twice the rows. Weights are also kept in
        bfloat16 for autocast, and must not change from then on. Classifiers and a guider's weaker
        denoiser stay as they are.

        Args:
            batch_sizes: Numbers of texts, each at least 1. A batch is filled up to the next larger
                one with copies, and one that is larger than all of them runs in parts.
            options: Further options of ``torch.compile``, such as its ``backend``.

        Raises:
            ValueError: If there are no sizes, or one is below 1.
        """
        if not batch_sizes:
            raise ValueError("`batch_sizes` must hold at least one size to compile for, got none.")
        self.shapes = FixedShapes(batch_sizes)
        limit = torch.compiler.config.recompile_limit
        torch.compiler.config.recompile_limit = max(limit, MOST_GRAPHS)
        options = {"fullgraph": True, "dynamic": False} | options
        for network in (self.autoencoder, self.denoiser):
            for module in network.modules():
                if isinstance(module, Linear):
                    module.keep_cast(torch.bfloat16)
            if self.device.type == "cuda":
                # CUDA graphs of single blocks would overwrite what the next block reads.
                for module in network.modules():
                    if isinstance(module, Transformer):
                        module.compile(**{"mode": "reduce-overhead"} | options)
            else:
                network.compile_repeated_blocks(**options)


def job_batch_sizes(batch_size: int, rows_leave: bool) -> tuple[int, ...]:
    """Choose the sizes to compile for a job, as few as do: each of them is compiled by itself.

    Args:
        batch_size: Texts of a batch; the last one, which may be smaller, is filled up.
        rows_leave: Whether texts leave a batch before its last step.
    """
    return (-(-batch_size // REST), batch_size) if rows_leave else (batch_size,)
