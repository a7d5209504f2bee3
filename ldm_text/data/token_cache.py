"""Token ids of a data set on disk, written once and memory-mapped ever after."""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from ldm_text.data.length_policy import LengthPolicy
from ldm_text.source_fields import SourceFields

# Part of every key: raise it when the layout of the files or the meaning of a row changes.
CACHE_FORMAT = 1
META = "meta.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenColumn:
    """Token id sequences laid end to end.

    Attributes:
        ids: All ids, ``(N,)``, ``uint16`` or ``uint32``.
        offsets: Where each sequence begins, and the end of the last, ``(rows + 1,)``, ``int64``.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class TokenCache:
    """The tokenized rows of a data set; texts and sources carry no end token.

    Attributes:
        text: The texts.
        source: Their sources, None where the data set has none.
        labels: Number of each text's class, ``(rows,)``, None where the data set has no labels.
        key: Hash of all that decides the rows.
    """

    text: TokenColumn
    source: TokenColumn | None
    labels: np.ndarray | None = None
    key: str = ""

    def __len__(self) -> int:
        return len(self.text)


def default_cache_dir() -> Path:
    """Return ``$LDM_TEXT_CACHE``, or ``~/.cache/ldm-text`` where it is not set."""
    return Path(os.environ.get("LDM_TEXT_CACHE") or "~/.cache/ldm-text").expanduser()


def cache_key(
    fingerprint: str,
    tokenizer: PreTrainedTokenizerFast,
    policy: LengthPolicy,
    fields: SourceFields | None = None,
) -> str:
    """Return the name of a cache folder: a hash of all that decides its content.

    Args:
        fingerprint: Hash of the records, as ``Corpus`` gives it.
        tokenizer: Tokenizer of the cache.
        policy: Length options of the cache.
        fields: How fields of sources are padded; by default they have none.
    """
    options = (policy.long_texts, policy.max_length_tokens, policy.max_source_length_tokens)
    parts = [CACHE_FORMAT, fingerprint, *options, policy.previous_as_source]
    parts += (fields or SourceFields()).key
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()[:32]


def open_token_cache(folder: Path) -> TokenCache:
    """Map the columns of a cache folder into memory.

    Raises:
        ValueError: If a file in it is missing or damaged.
    """
    try:
        meta = json.loads((folder / META).read_text())
        source = _open_column(folder, "source") if (folder / "source_ids.npy").exists() else None
        text = _open_column(folder, "text")
        cache = TokenCache(text, source, _open_labels(folder, len(text)), key=folder.name)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"The token cache {folder} is damaged ({error}). Delete the folder to build it again."
        ) from error
    for change in ("dropped", "truncated", "split"):
        if count := meta[f"num_{change}"]:
            level = logging.INFO if change == "split" else logging.WARNING
            logger.log(level, "%s: %d records too long and %s.", meta["name"], count, change)
    return cache


def _open_labels(folder: Path, num_rows: int) -> np.ndarray | None:
    path = folder / "labels.npy"
    if not path.exists():
        return None
    labels = np.load(path, mmap_mode="r", allow_pickle=False)
    if labels.shape != (num_rows,):
        raise ValueError("labels.npy does not fit")
    return labels


def _open_column(folder: Path, name: str) -> TokenColumn:
    ids = np.load(folder / f"{name}_ids.npy", mmap_mode="r", allow_pickle=False)
    offsets = np.load(folder / f"{name}_offsets.npy", mmap_mode="r", allow_pickle=False)
    if ids.ndim != 1 or offsets.ndim != 1 or not len(offsets) or offsets[-1] != len(ids):
        raise ValueError(f"{name}_offsets.npy and {name}_ids.npy do not fit")
    return TokenColumn(ids=ids, offsets=offsets)
