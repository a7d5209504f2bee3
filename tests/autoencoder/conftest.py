"""A pretrained encoder of toy size, with a tokenizer of word pieces, as a folder on disk."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from autoencoder import FrozenEncoderAutoencoder, PerceiverAutoencoder, VariationalAutoencoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["the", "cat", "s", "##s", "##at", "at", ".", *"wxyz", *(f"##{n}" for n in range(10))]
TOKEN_TEXTS = [
    "<|pad|>",
    "<|end|>",
    "<|mask|>",
    " The",
    " cat",
    "s",
    " s",
    "at",
    ".",
    "\n",
    " cats.",
]
TOKEN_TEXTS += [f" {letter}{number}" for letter in "wxyz" for number in range(10)]


@pytest.fixture
def token_texts():
    return TOKEN_TEXTS[:40]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    vocabulary = {piece: number for number, piece in enumerate(SPECIAL + PIECES)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True))
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_variant(activate, pretrained, token_texts):
    """Make an autoencoder of another kind at toy size, its weights moved as training does."""
    sizes = {
        "vocab_size": 40,
        "latent_dim": 8,
        "token_dim": 16,
        "hidden_dim": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
    }

    def make(name, active=True, **options):
        options = sizes | options
        if name == "perceiver":
            model = PerceiverAutoencoder(**options)
        elif name == "variational":
            model = VariationalAutoencoder(**options)
        else:
            frozen = {"token_texts": token_texts, "pretrained": pretrained}
            model = FrozenEncoderAutoencoder(**frozen | options)
        return activate(model) if active else model

    return make


@pytest.fixture
def packed(make_texts):
    """One text a row, as a packed batch with free latents behind it."""
    texts = make_texts()
    is_text = texts["attention_mask"].unflatten(1, (-1, 4)).any(dim=2)
    return texts | {"document_ids": is_text.long() - 1}
