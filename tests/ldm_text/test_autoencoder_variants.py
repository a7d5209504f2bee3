"""Pipelines with the other kinds of autoencoders are saved, loaded and generate."""

import pytest
import torch

from autoencoder import PerceiverAutoencoder, VariationalAutoencoder
from ldm_text.pipeline import LatentTextPipeline

SIZES = {
    "tokens_per_latent": 4,
    "latent_dim": 8,
    "token_dim": 16,
    "hidden_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
}


@pytest.mark.parametrize("kind", [PerceiverAutoencoder, VariationalAutoencoder])
def test_a_pipeline_is_loaded_with_its_kind_of_autoencoder(
    make_pipeline, toy_tokenizer, activate, kind, tmp_path
):
    autoencoder = activate(kind(vocab_size=len(toy_tokenizer), **SIZES)).eval()
    pipeline = make_pipeline(autoencoder=autoencoder)
    pipeline.save_pretrained(tmp_path)
    loaded = LatentTextPipeline.from_pretrained(tmp_path)
    assert type(loaded.autoencoder) is kind
    texts = [
        one("The Mill", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).texts
        for one in (pipeline, loaded)
    ]
    assert texts[0] == texts[1]
