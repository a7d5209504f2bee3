"""A scorer, an embedder and baselines at toy size."""

import numpy as np
import pytest

from ldm_text.baselines import AutoregressiveModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.evaluation.scorer import PipelineScorer

SIZES = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2}


@pytest.fixture
def make_token_pipeline(toy_tokenizer, activate):
    """Make an autoregressive pipeline, texts of 16 tokens and sources of 24."""

    def make(active=True, model_class=AutoregressiveModel, **options):
        model = model_class(vocab_size=len(toy_tokenizer), **SIZES, **options)
        return TokenPipeline(toy_tokenizer, (activate(model) if active else model).eval(), 16, 24)

    return make


@pytest.fixture
def token_pipeline(make_token_pipeline):
    return make_token_pipeline()


@pytest.fixture
def token_pipeline_folder(token_pipeline, tmp_path):
    folder = tmp_path / "token_pipeline"
    token_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def scorer(token_pipeline):
    return PipelineScorer(token_pipeline, "toy")


class LetterEmbedder:
    """Embed a text by the shares of some letters in it: enough to tell texts apart."""

    name = "letters"

    def embed(self, texts):
        counts = [[text.count(letter) / max(1, len(text)) for letter in "aeiz"] for text in texts]
        return np.array(counts, np.float32)


@pytest.fixture
def embedder():
    return LetterEmbedder()
