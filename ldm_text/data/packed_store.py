"""Packed rows of a corpus: in memory if it is small, otherwise in files that are mapped into it."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ldm_text.data.documents import Documents
from ldm_text.data.growing_array import GrowingArray
from ldm_text.data.packing import PackedRows, pack_documents
from ldm_text.data.sole_builder import sole_builder

# Documents packed with each other. A row's neighbours in a batch come from all blocks.
DOCUMENTS_PER_BLOCK = 1 << 20

logger = logging.getLogger(__name__)


def pack_corpus(documents: Documents, cache_dir: Path, seed: int, **options: Any) -> PackedRows:
    """Pack all documents of a cache, block by block.

    Args:
        documents: The documents.
        cache_dir: Folder for the rows of a corpus of more than one block.
        seed: Decides the order within a block, and the extensions.
        options: As for ``pack_documents``.

    Raises:
        ValueError: If files of an earlier run are damaged.
    """
    if len(documents) <= DOCUMENTS_PER_BLOCK:
        return pack_documents(documents.block(0, len(documents)), seed=[seed, 0], **options)
    parts = [1, documents.cache.key, DOCUMENTS_PER_BLOCK, seed, sorted(options.items())]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    folder = cache_dir / f"{key}.packed"
    with sole_builder(folder) as partial:
        if not folder.is_dir():
            logger.info("Packing %d documents into %s.", len(documents), folder)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write_blocks(documents, partial, seed, options)
            partial.rename(folder)
    try:
        names = ("input_ids", "document_ids")
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in names
        }
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"The packed rows {folder} are damaged ({error}). Delete the folder to pack again."
        ) from error
    return PackedRows(**arrays)


def _write_blocks(documents: Documents, folder: Path, seed: int, options: dict[str, Any]) -> None:
    length = options["max_length_tokens"]
    num_latents = length // options["tokens_per_latent"]
    id_type = documents.cache.text.ids.dtype
    with (
        GrowingArray(folder / "input_ids.npy", id_type, (length,)) as input_ids,
        GrowingArray(folder / "document_ids.npy", np.dtype(np.int32), (num_latents,)) as numbers,
    ):
        starts = range(0, len(documents), DOCUMENTS_PER_BLOCK)
        for block, start in enumerate(starts):
            end = min(start + DOCUMENTS_PER_BLOCK, len(documents))
            packed = pack_documents(documents.block(start, end), seed=[seed, block], **options)
            input_ids.append(packed.input_ids)
            numbers.append(packed.document_ids)
        input_ids.sync()
        numbers.sync()
