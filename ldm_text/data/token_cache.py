"""Token ids of a data set on disk, written once and memory-mapped ever after."""

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from transformers import PreTrainedTokenizerFast

from ldm_text.data.length_policy import LengthPolicy, TokenRow
from ldm_text.data.records import TextRecord
from ldm_text.tokenizer import encode_texts

# Part of every key: raise it when the layout of the files or the meaning of a row changes.
CACHE_FORMAT = 1
RECORDS_PER_BATCH = 1024

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
    """The tokenized rows of a data set; texts and sources carry no end token."""

    text: TokenColumn
    source: TokenColumn | None

    def __len__(self) -> int:
        return len(self.text)


def default_cache_dir() -> Path:
    """Return ``$LDM_TEXT_CACHE``, or ``~/.cache/ldm-text`` where it is not set."""
    return Path(os.environ.get("LDM_TEXT_CACHE") or "~/.cache/ldm-text").expanduser()


def cache_key(fingerprint: str, tokenizer: PreTrainedTokenizerFast, policy: LengthPolicy) -> str:
    """Return the name of a cache folder: a hash of all that decides its content.

    Args:
        fingerprint: Hash of the records, as ``Corpus`` gives it.
        tokenizer: Tokenizer of the cache.
        policy: Length options of the cache.
    """
    options = (policy.long_texts, policy.max_length_tokens, policy.max_source_length_tokens)
    parts = [CACHE_FORMAT, fingerprint, *options, policy.previous_as_source]
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()[:32]


def build_token_cache(
    folder: Path,
    records: Iterable[TextRecord],
    tokenizer: PreTrainedTokenizerFast,
    policy: LengthPolicy,
    name: str,
) -> None:
    """Tokenize records into a folder that appears only when it is complete.

    Args:
        folder: Folder to create.
        records: Records to tokenize.
        tokenizer: Tokenizer to use.
        policy: What to do with long texts.
        name: Names the data in messages.

    Raises:
        ValueError: If no row remains, or a text is too long for the policy.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        rows = _tokenize(records, tokenizer, policy, name)
        dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
        num_rows = _write_columns(temporary, rows, dtype)
        if num_rows == 0:
            raise ValueError(
                f"{name} leaves no rows: {policy.num_dropped} records were too long and dropped."
            )
        (temporary / "meta.json").write_text(json.dumps({"name": name, **asdict(policy)}, indent=1))
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was faster; the key says that its content is the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_token_cache(folder: Path) -> TokenCache:
    """Map the columns of a cache folder into memory.

    Raises:
        ValueError: If a file in it is missing or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        source = _open_column(folder, "source") if (folder / "source_ids.npy").exists() else None
        cache = TokenCache(text=_open_column(folder, "text"), source=source)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"The token cache {folder} is damaged ({error}). Delete the folder to build it again."
        ) from error
    for change in ("dropped", "truncated", "split"):
        if count := meta[f"num_{change}"]:
            level = logging.INFO if change == "split" else logging.WARNING
            logger.log(level, "%s: %d records too long and %s.", meta["name"], count, change)
    return cache


def _tokenize(
    records: Iterable[TextRecord],
    tokenizer: PreTrainedTokenizerFast,
    policy: LengthPolicy,
    name: str,
) -> Iterator[TokenRow]:
    records = iter(records)
    number = 0
    while batch := list(itertools.islice(records, RECORDS_PER_BATCH)):
        texts = encode_texts(tokenizer, [record.text for record in batch])
        sources: list[list[int] | None] = [None] * len(batch)
        if batch[0].source is not None:
            sources = list(encode_texts(tokenizer, [record.source or "" for record in batch]))
        for text_ids, source_ids in zip(texts, sources, strict=True):
            number += 1
            yield from policy.apply(text_ids, source_ids, f"{name}, record {number}")


def _write_columns(folder: Path, rows: Iterator[TokenRow], dtype: np.dtype) -> int:
    """Write text and source columns; return the number of rows."""
    offsets = {"text": array("q", [0]), "source": array("q", [0])}
    with tempfile.TemporaryFile(dir=folder) as text, tempfile.TemporaryFile(dir=folder) as source:
        for text_ids, source_ids in rows:
            text.write(np.array(text_ids, dtype).tobytes())
            offsets["text"].append(offsets["text"][-1] + len(text_ids))
            if source_ids is not None:
                source.write(np.array(source_ids, dtype).tobytes())
                offsets["source"].append(offsets["source"][-1] + len(source_ids))
        _write_column(folder, "text", text, offsets["text"], dtype)
        if len(offsets["source"]) > 1:
            _write_column(folder, "source", source, offsets["source"], dtype)
    return len(offsets["text"]) - 1


def _write_column(
    folder: Path, name: str, content: BinaryIO, offsets: array, dtype: np.dtype
) -> None:
    """Put the header of an ``.npy`` file before ids whose number is known only at the end."""
    content.seek(0)
    with (folder / f"{name}_ids.npy").open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (offsets[-1],)}
        np.lib.format.write_array_header_1_0(file, header)
        shutil.copyfileobj(content, file)
    np.save(folder / f"{name}_offsets.npy", np.array(offsets, np.int64), allow_pickle=False)


def _open_column(folder: Path, name: str) -> TokenColumn:
    ids = np.load(folder / f"{name}_ids.npy", mmap_mode="r", allow_pickle=False)
    offsets = np.load(folder / f"{name}_offsets.npy", mmap_mode="r", allow_pickle=False)
    return TokenColumn(ids=ids, offsets=offsets)
