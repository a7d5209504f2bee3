"""Pack documents of different lengths into rows of one length, so that padding is never trained."""

from dataclasses import dataclass

import numpy as np

from ldm_text.data.token_cache import TokenColumn


@dataclass(frozen=True)
class PackedRows:
    """Rows filled with whole documents.

    Attributes:
        input_ids: Text, end token, padding to whole latents, document by document, ``(N, S)``.
        document_ids: Which document of its row a latent belongs to, from 0; -1 for none,
            ``(N, L)``, ``int32``.
    """

    input_ids: np.ndarray
    document_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class _Placement:
    """Where each document begins: row, latent in the row, and its number among the row's."""

    rows: np.ndarray
    starts: np.ndarray
    numbers: np.ndarray
    num_rows: int


def pack_documents(
    documents: TokenColumn,
    *,
    max_length_tokens: int,
    tokens_per_latent: int,
    pad_token_id: int,
    end_token_id: int,
    empty_latent_prob: float = 0.0,
    seed: int | list[int] = 0,
) -> PackedRows:
    """Pack documents, each with its end token, into rows of whole latents.

    A document begins at a latent and stays in one row. Some documents are extended by a random
    number of latents without tokens, so that a decoder learns that empty latents may follow.

    Args:
        documents: Token ids without end tokens.
        max_length_tokens: Length of a row, ``S``.
        tokens_per_latent: Tokens of one latent; divides ``max_length_tokens``.
        pad_token_id: Id that fills what is left; occurs in no document.
        end_token_id: Id put after each document.
        empty_latent_prob: Share of the documents to extend, by 0 to as many latents as fit.
        seed: Decides the order of the documents and the extensions.

    Raises:
        ValueError: If a document is longer than a row.
    """
    generator = np.random.default_rng(seed)
    latents_per_row = max_length_tokens // tokens_per_latent
    lengths = np.diff(documents.offsets) + 1
    num_latents = -(-lengths // tokens_per_latent)
    if len(lengths) and num_latents.max() > latents_per_row:
        raise ValueError(
            f"A document has {lengths.max()} tokens with its end token, "
            f"a row holds {max_length_tokens}."
        )
    extended = generator.random(len(lengths)) < empty_latent_prob
    num_empty = generator.integers(0, latents_per_row - num_latents, endpoint=True)
    num_latents = num_latents + np.where(extended, num_empty, 0)
    order = generator.permutation(len(lengths))
    placement = _place(num_latents, order, latents_per_row)

    shape = (placement.num_rows, latents_per_row)
    document_ids = np.full(shape, -1, np.int32)
    latent_starts = placement.rows * latents_per_row + placement.starts
    document_ids.reshape(-1)[_ranges(latent_starts, num_latents)] = np.repeat(
        placement.numbers, num_latents
    )
    input_ids = np.full((placement.num_rows, max_length_tokens), pad_token_id, documents.ids.dtype)
    token_starts = latent_starts * tokens_per_latent
    flat_ids = input_ids.reshape(-1)
    flat_ids[_ranges(token_starts, lengths - 1)] = documents.ids
    flat_ids[token_starts + lengths - 1] = end_token_id
    return PackedRows(input_ids=input_ids, document_ids=document_ids)


def _place(num_latents: np.ndarray, order: np.ndarray, latents_per_row: int) -> _Placement:
    """Give each document, in the given order, the fullest open row that still has room for it."""
    rows, starts, numbers = (np.zeros(len(order), np.int64) for _ in range(3))
    open_rows: list[list[int]] = [[] for _ in range(latents_per_row + 1)]  # by latents left
    num_documents: list[int] = []
    for document, size in zip(order.tolist(), num_latents[order].tolist(), strict=True):
        room = next((n for n in range(size, latents_per_row + 1) if open_rows[n]), None)
        if room is None:
            row, room = len(num_documents), latents_per_row
            num_documents.append(0)
        else:
            row = open_rows[room].pop()
        rows[document], starts[document] = row, latents_per_row - room
        numbers[document] = num_documents[row]
        num_documents[row] += 1
        open_rows[room - size].append(row)
    return _Placement(rows, starts, numbers, len(num_documents))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return ``start, start + 1, ...`` for each start, one range after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
