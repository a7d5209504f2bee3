"""A pipeline of toy size with a real tokenizer, called from Python and by the command line."""

import json
from functools import partial

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


@pytest.fixture
def mixed_prompts():
    """Prompts of all kinds, an empty one and none among them."""
    return ["name[The Mill]", "", None, "The Punter is a coffee shop near the river."]


@pytest.fixture
def generators():
    """Make a source of noise for each row, which is that of its number."""

    def make(rows=range(4)):
        return [torch.Generator().manual_seed(row) for row in rows]

    return make


@pytest.fixture
def run(pipeline, mixed_prompts, generators):
    """Generate for ``mixed_prompts``, each row from its own noise."""

    def call(prompt=mixed_prompts, **options):
        return pipeline(prompt, **{"num_inference_steps": 3, "generator": generators()} | options)

    return call


@pytest.fixture
def sources():
    """Prompts of a generation, an empty one and none among them."""
    return ["name[The Mill]", "", None, "The Punter is a coffee shop.", "name[Zizzi], food[French]"]


@pytest.fixture
def write_prompts(tmp_path):
    def write(*lines, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def prompts(write_prompts, sources):
    return write_prompts(*(json.dumps({"source": prompt}) for prompt in sources if prompt))


@pytest.fixture
def generate(main, pipeline_folder):
    """Run ``ldm-text generate``; return its exit code, standard output and standard error."""
    common = ["--pipeline", pipeline_folder, "--num_inference_steps", 3, "--precision", "float32"]
    return partial(main, "generate", *common)


@pytest.fixture
def read_lines():
    def read(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    return read
