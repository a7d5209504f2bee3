"""Batches and generators for baselines at toy size."""

from dataclasses import replace

import pytest
import torch

from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.baselines.sequences import TokenBatch, prompt_batch, token_batch
from tests.ldm_text.baselines.families import FAMILIES, SIZES

VOCAB_SIZE, PAD, END = 40, 0, 1


@pytest.fixture
def make_batch(make_texts):
    """Make random texts with random sources, as the data module delivers them, and arrange them."""

    def make(num_rows=8, length=12, source_length=8):
        rows = make_texts(num_rows, length)
        sources = make_texts(num_rows, source_length)
        rows["source_ids"], rows["source_mask"] = sources["input_ids"], sources["attention_mask"]
        return token_batch(rows, END)

    return make


@pytest.fixture
def prompts():
    """Sources of different lengths, one of them missing."""
    rows = [[5, 6, 7, 8, END], [], [9, END], [END], [20, 21, 22, END]]
    return prompt_batch(rows, END, torch.device("cpu"))


@pytest.fixture
def rows_of():
    """Choose rows of a batch."""

    def choose(batch, rows):
        return TokenBatch(*(getattr(batch, name)[rows] for name in vars(batch)))

    return choose


@pytest.fixture
def same_source(rows_of):
    """Put texts behind the first of the prompts."""

    def make(prompts, texts, attention_mask=None):
        rows = rows_of(prompts, torch.zeros(len(texts), dtype=torch.long))
        mask = texts != PAD if attention_mask is None else attention_mask
        return replace(rows, input_ids=texts, attention_mask=mask)

    return make


@pytest.fixture
def text_batch():
    """Make texts without a source."""

    def make(ids):
        start = torch.full_like(ids[:, :1], END)
        return TokenBatch(start, start.bool(), ids, torch.ones_like(ids, dtype=torch.bool))

    return make


@pytest.fixture
def row_generators():
    def make(num_rows, seed=0):
        return [torch.Generator().manual_seed(1000 * seed + row) for row in range(num_rows)]

    return make


@pytest.fixture
def make_baseline(activate):
    def make(family, active=True, **options):
        model = FAMILIES[family](**{"vocab_size": VOCAB_SIZE} | SIZES | options).eval()
        return activate(model) if active else model

    return make


@pytest.fixture
def make_token_pipeline(toy_tokenizer, activate):
    def make(family="autoregressive", **options):
        model = FAMILIES[family](vocab_size=len(toy_tokenizer), **SIZES | options)
        return TokenPipeline(toy_tokenizer, activate(model).eval(), 16, 24)

    return make


@pytest.fixture(params=["latent", *FAMILIES])
def generator(request, make_token_pipeline, make_pipeline):
    """Each kind of generator of text in turn."""
    if request.param == "latent":
        return make_pipeline()
    return make_token_pipeline(request.param)
