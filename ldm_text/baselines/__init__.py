"""Discrete, autoregressive and embedding-space baselines; a family is a file of its own.

Shapes: ``B`` batch, ``K`` tokens of the source, ``S`` tokens of the text, ``T`` positions, ``H``
hidden width, ``V`` vocabulary. Diffusion time ``t`` runs from 0 (data) to 1 (noise).
"""

import importlib
from typing import TYPE_CHECKING, Any

from ldm_text.baselines.autoregressive import AutoregressiveModel
from ldm_text.baselines.block_diffusion import BlockDiffusionModel
from ldm_text.baselines.d3pm_absorbing import D3PMAbsorbingModel
from ldm_text.baselines.embedding_diffusion import EmbeddingDiffusionModel
from ldm_text.baselines.masked import MaskedDiffusionModel
from ldm_text.baselines.sedd import SEDDModel
from ldm_text.baselines.uniform import UniformDiffusionModel

if TYPE_CHECKING:
    from ldm_text.baselines.pretrained import PretrainedTokenModel
    from ldm_text.baselines.self_distillation import SelfDistillation
    from ldm_text.baselines.self_distillation_training import LitSelfDistillation
    from ldm_text.baselines.training import LitTokenModel

__all__ = [
    "AutoregressiveModel",
    "BlockDiffusionModel",
    "D3PMAbsorbingModel",
    "EmbeddingDiffusionModel",
    "LitSelfDistillation",
    "LitTokenModel",
    "MaskedDiffusionModel",
    "PretrainedTokenModel",
    "SEDDModel",
    "SelfDistillation",
    "UniformDiffusionModel",
]

TRAINING = {
    "LitSelfDistillation": "self_distillation_training",
    "LitTokenModel": "training",
    "PretrainedTokenModel": "pretrained",
    "SelfDistillation": "self_distillation",
}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only generates must not wait for Lightning."""
    if name in TRAINING:
        return getattr(importlib.import_module(f"{__name__}.{TRAINING[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
