import time
from collections import Counter

import numpy as np
import pytest

from ldm_text.data import packed_store
from ldm_text.data.documents import Documents
from ldm_text.data.packed_store import pack_corpus
from ldm_text.data.packing import pack_documents
from ldm_text.data.token_cache import TokenCache, TokenColumn

PAD, END = 0, 1


def documents_of(cache):
    documents = Documents(cache)
    return documents.block(0, len(documents))


def column(sequences):
    lengths = [len(sequence) for sequence in sequences]
    ids = np.array([token for sequence in sequences for token in sequence], np.uint16)
    return TokenColumn(ids=ids, offsets=np.cumsum([0, *lengths]))


def random_documents(count, max_tokens, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, max_tokens, count)
    return [generator.integers(3, 60_000, length).tolist() for length in lengths]


def pack(documents, **options):
    options = {"max_length_tokens": 32, "tokens_per_latent": 4} | options
    return pack_documents(column(documents), pad_token_id=PAD, end_token_id=END, **options)


def unpack(packed, tokens_per_latent=4):
    """Return each document's tokens, padding included, checking that its latents are a run."""
    documents = []
    for ids, numbers in zip(packed.input_ids, packed.document_ids, strict=True):
        present = numbers[numbers >= 0]
        assert np.all(numbers[: len(present)] >= 0), "free latents stand at the end of a row"
        assert np.all(np.diff(present) >= 0)
        assert present[0] == 0
        assert set(present) == set(range(present.max() + 1))
        patches = ids.reshape(-1, tokens_per_latent)
        assert np.all(patches[numbers < 0] == PAD)
        documents += [patches[numbers == number].ravel() for number in range(present.max() + 1)]
    return documents


@pytest.mark.parametrize("empty_latent_prob", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tokens_per_latent", [1, 4])
def test_every_document_is_in_one_row_once_and_whole(empty_latent_prob, tokens_per_latent):
    documents = random_documents(700, 32)
    packed = pack(
        documents, tokens_per_latent=tokens_per_latent, empty_latent_prob=empty_latent_prob
    )
    found = Counter()
    for tokens in unpack(packed, tokens_per_latent):
        text = tokens[: np.flatnonzero(tokens)[-1] + 1]
        assert text[-1] == END
        assert PAD not in text
        found[tuple(text[:-1].tolist())] += 1
    assert found == Counter(map(tuple, documents))


def test_without_extension_a_document_takes_just_the_latents_it_needs():
    documents = random_documents(300, 32)
    needed = Counter(-(-(len(document) + 1) // 4) for document in documents)
    assert Counter(len(tokens) // 4 for tokens in unpack(pack(documents))) == needed


def test_the_asked_share_of_documents_is_extended_up_to_a_whole_row():
    documents = [[7]] * 4000
    sizes = Counter(len(tokens) // 4 for tokens in unpack(pack(documents, empty_latent_prob=0.5)))
    assert set(sizes) == set(range(1, 9))
    # Half are not extended; the other half is uniform over 0 to 7 further latents.
    assert sizes[1] / 4000 == pytest.approx(0.5 + 0.5 / 8, abs=0.03)
    assert sizes[8] / 4000 == pytest.approx(0.5 / 8, abs=0.02)


def test_rows_are_well_filled():
    packed = pack(random_documents(2000, 32))
    assert np.mean(packed.document_ids >= 0) > 0.95


def test_packing_is_decided_by_the_seed():
    documents = random_documents(200, 32)
    first, again, other = (pack(documents, empty_latent_prob=0.5, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.input_ids, again.input_ids)
    assert np.array_equal(first.document_ids, again.document_ids)
    assert first.input_ids.shape != other.input_ids.shape or not np.array_equal(
        first.input_ids, other.input_ids
    )


def test_a_document_longer_than_a_row_is_refused():
    assert len(pack([list(range(3, 34))])) == 1
    with pytest.raises(ValueError, match="has 33 tokens with its end token, a row holds 32"):
        pack([list(range(3, 35))])


def test_100_000_documents_are_packed_in_seconds():
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 63, 100_000)
    documents = TokenColumn(
        ids=np.full(lengths.sum(), 9, np.uint16), offsets=np.concatenate([[0], np.cumsum(lengths)])
    )
    start = time.process_time()
    pack_documents(
        documents,
        max_length_tokens=64,
        tokens_per_latent=4,
        pad_token_id=PAD,
        end_token_id=END,
        empty_latent_prob=0.5,
    )
    assert time.process_time() - start < 5


def test_documents_are_texts_and_each_new_source_once():
    texts = [[5], [6, 7], [5]]
    sources = [[8, 9], [8, 9], [6, 7]]
    documents = documents_of(TokenCache(text=column(texts), source=column(sources)))
    assert [documents[row].tolist() for row in range(len(documents))] == [*texts, [8, 9]]
    assert documents_of(TokenCache(text=column(texts), source=None))[1].tolist() == [6, 7]


def test_an_empty_source_becomes_a_document_of_its_end_alone():
    documents = documents_of(TokenCache(text=column([[5]]), source=column([[]])))
    (first, second) = sorted(unpack(pack_column(documents)), key=lambda tokens: tokens[0])
    assert first.tolist() == [END, PAD, PAD, PAD]
    assert second.tolist() == [5, END, PAD, PAD]


def pack_column(documents):
    return pack_documents(
        documents, max_length_tokens=32, tokens_per_latent=4, pad_token_id=PAD, end_token_id=END
    )


def test_a_large_corpus_is_packed_block_by_block_into_files(tmp_path, monkeypatch):
    texts = random_documents(95, 30)
    sources = random_documents(95, 20, seed=1)
    documents = Documents(TokenCache(text=column(texts), source=column(sources), key="a"))
    options = {"max_length_tokens": 32, "tokens_per_latent": 4}
    options |= {"pad_token_id": PAD, "end_token_id": END, "empty_latent_prob": 0.0}
    whole = pack_corpus(documents, tmp_path, 0, **options)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(packed_store, "DOCUMENTS_PER_BLOCK", 20)
    blocks = pack_corpus(documents, tmp_path, 0, **options)
    assert isinstance(blocks.input_ids, np.memmap)
    found = [
        Counter(tuple(tokens[tokens != PAD].tolist()) for tokens in unpack(packed))
        for packed in (whole, blocks)
    ]
    assert found[0] == found[1]
    assert len(blocks) < 1.2 * len(whole)
    monkeypatch.setattr(packed_store, "pack_documents", None)  # the second run reads the files
    again = pack_corpus(documents, tmp_path, 0, **options)
    assert np.array_equal(again.document_ids, blocks.document_ids)
    [folder] = tmp_path.glob("[!.]*")
    (folder / "input_ids.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"packed are damaged .* Delete the folder"):
        pack_corpus(documents, tmp_path, 0, **options)
