import json
from pathlib import Path

import pytest

from ldm_text.tokenizer import load_tokenizer, train_tokenizer

SENTENCES = [
    "The Vaults is a nice pub. It is cheap.",
    "The Punter is a coffee shop near the river.",
    "A family friendly place, The Mill serves French food.",
    "Zizzi!",
]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "train.txt").write_text("\n".join(SENTENCES * 3))
    train_tokenizer(str(folder / "train.txt"), folder, vocab_size=300)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    return load_tokenizer(tokenizer_folder)


@pytest.fixture
def write_jsonl(tmp_path):
    def write(rows, name="data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
