"""All families of baselines, by the names that tests give them."""

from ldm_text.baselines import (
    AutoregressiveModel,
    BlockDiffusionModel,
    D3PMAbsorbingModel,
    EmbeddingDiffusionModel,
    MaskedDiffusionModel,
    SEDDModel,
    UniformDiffusionModel,
)

FAMILIES = {
    "autoregressive": AutoregressiveModel,
    "masked": MaskedDiffusionModel,
    "d3pm_absorbing": D3PMAbsorbingModel,
    "uniform": UniformDiffusionModel,
    "sedd": SEDDModel,
    "block_diffusion": BlockDiffusionModel,
    "embedding_diffusion": EmbeddingDiffusionModel,
}
SIZES = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2}
TINY = {"vocab_size": 6, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
