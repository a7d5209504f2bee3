"""A pipeline of toy size with a real tokenizer."""

import pytest
import torch

from denoiser.guiders import make_guider
from denoiser.schedulers import make_scheduler
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import load_tokenizer, train_tokenizer

SENTENCES = [
    "The Vaults is a nice pub. It is cheap.",
    "The Punter is a coffee shop near the river.",
    "name[The Mill], food[French], area[riverside]",
]


@pytest.fixture(scope="session")
def toy_tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy_tokenizer")
    (folder / "train.txt").write_text("\n".join(SENTENCES * 3))
    train_tokenizer(str(folder / "train.txt"), folder, vocab_size=300)
    return folder


@pytest.fixture(scope="session")
def toy_tokenizer(toy_tokenizer_folder):
    return load_tokenizer(toy_tokenizer_folder)


@pytest.fixture
def make_pipeline(toy_tokenizer, make_autoencoder, make_denoiser):
    """Make a pipeline of random weights, texts of 16 tokens and sources of 24."""

    def make(**parts):
        autoencoder = make_autoencoder(vocab_size=len(toy_tokenizer))
        autoencoder.statistics.measure(torch.randn(50, 8))
        options = {
            "tokenizer": toy_tokenizer,
            "autoencoder": autoencoder.eval(),
            "denoiser": make_denoiser().eval(),
            "scheduler": make_scheduler("euler", 4.0),
            "guider": make_guider("constant", 3.0),
            "max_length_tokens": 16,
            "max_source_length_tokens": 24,
        }
        return LatentTextPipeline(**options | parts)

    return make


@pytest.fixture
def pipeline(make_pipeline):
    return make_pipeline()


@pytest.fixture
def pipeline_folder(pipeline, tmp_path):
    folder = tmp_path / "pipeline"
    pipeline.save_pretrained(folder)
    return folder
