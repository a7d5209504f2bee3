"""How exactly a latent pipeline's autoencoder keeps texts."""

from typing import Any

import torch

from ldm_text.evaluation.metrics import reconstruction_accuracy
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import encode_text


def measure_reconstruction(pipeline: LatentTextPipeline, texts: list[str]) -> dict[str, Any]:
    """Encode and decode the texts that are short enough for the model, all in float32.

    Returns:
        The figures of ``reconstruction_accuracy``, left out where no text is short enough, and how
        many texts they are of, ``num_texts`` and ``num_too_long``.
    """
    limit = pipeline.config.max_length_tokens
    ids = [encode_text(pipeline.tokenizer, text) for text in texts]
    rows = [[*row, pipeline.tokenizer.eos_token_id] for row in ids if len(row) < limit]
    counts = {"num_texts": len(rows), "num_too_long": len(texts) - len(rows)}
    if not rows:
        return counts
    input_ids = torch.tensor(
        [row + [pipeline.tokenizer.pad_token_id] * (limit - len(row)) for row in rows],
        device=pipeline.device,
    )
    lengths = torch.tensor([len(row) for row in rows], device=pipeline.device)
    attention_mask = torch.arange(limit, device=pipeline.device) < lengths[:, None]
    return reconstruction_accuracy(pipeline.autoencoder, input_ids, attention_mask) | counts
