"""The documents of a token cache: all texts, then each source that is none of them."""

import hashlib

import numpy as np

from ldm_text.data.token_cache import TokenCache, TokenColumn


class Documents:
    """Texts and distinct sources of a cache, numbered, and read a block at a time.

    Sources repeat (one meaning, several wordings); each is learned as often as any text.

    Args:
        cache: The tokenized rows. With sources, it takes 24 bytes of memory a row to tell which
            are distinct.
    """

    def __init__(self, cache: TokenCache) -> None:
        self.cache = cache
        self.source_rows = distinct_sources(cache)

    def __len__(self) -> int:
        return len(self.cache.text) + len(self.source_rows)

    def block(self, start: int, end: int) -> TokenColumn:
        """Read the documents numbered ``start, ..., end - 1``."""
        text = self.cache.text
        num_texts = len(text)
        first, last = min(start, num_texts), min(end, num_texts)
        offsets = text.offsets[first : last + 1]
        parts = [text.ids[offsets[0] : offsets[-1]]]
        lengths = [np.diff(offsets)]
        if end > num_texts:
            assert self.cache.source is not None, "only sources come after the texts"
            rows = self.source_rows[max(0, start - num_texts) : end - num_texts]
            sources = [self.cache.source[row] for row in rows]
            parts += sources
            lengths.append(np.array([len(source) for source in sources], np.int64))
        ends = np.cumsum(np.concatenate(lengths))
        return TokenColumn(ids=np.concatenate(parts), offsets=np.concatenate([[0], ends]))


def distinct_sources(cache: TokenCache) -> np.ndarray:
    """Return the rows of sources that are neither a text nor an earlier source, ``int64``."""
    if cache.source is None:
        return np.zeros(0, np.int64)
    # One in 2**64: two documents of one hash are the same for all that matters.
    texts, sources = hashes(cache.text), hashes(cache.source)
    _, first_rows = np.unique(sources, return_index=True)
    first_rows.sort()
    return first_rows[~np.isin(sources[first_rows], texts)]


def hashes(column: TokenColumn) -> np.ndarray:
    """Hash the rows of a column, ``uint64``."""
    result = np.empty(len(column), np.uint64)
    for row in range(len(column)):
        digest = hashlib.blake2b(column[row].tobytes(), digest_size=8).digest()
        result[row] = int.from_bytes(digest)
    return result
