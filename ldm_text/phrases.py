"""Phrase merges: let a byte-level BPE join whole words, so that a token can be a frequent phrase.

A second stage of BPE above the words, in the manner of SuperBPE (Liu et al. 2025). A latent then
stands for a phrase instead of a fixed number of word pieces, and phrases, unlike patches of a fixed
length, begin and end where the language does.
"""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

# A phrase: an optional space, words with one space between them, then closing punctuation.
# Whatever lies between two phrases (line breaks, double spaces, opening quotes) is a piece too.
PHRASE_PATTERN = r" ?[^\s\p{P}]+(?: [^\s\p{P}]+)*\p{P}*"
FIRST_SYMBOL = (
    0xF0000  # a plane of private characters: one stands for each token of the first stage
)
BARRIER = "\n"  # stands for a word of several tokens; nothing is joined across it


def add_phrases(words: "Tokenizer", texts: Iterable[str], num_phrases: int) -> "Tokenizer":
    """Continue the merges of a word tokenizer across spaces, but not across punctuation.

    Only words that are a single token take part, so that no phrase ends inside a word.

    Args:
        words: A byte-level BPE tokenizer whose tokens stay inside words.
        texts: What it was trained on.
        num_phrases: Most tokens to add.

    Returns:
        A tokenizer that splits text into phrases before it merges.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    state = json.loads(words.to_str())
    vocab: dict[str, int] = state["model"]["vocab"]
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    phrase_splitter = pre_tokenizers.Split(Regex(PHRASE_PATTERN), behavior="isolated")

    sequences = list(_symbol_sequences(words, phrase_splitter, texts))
    alphabet = set().union(*sequences) - {BARRIER}
    second = Tokenizer(models.BPE())
    second.pre_tokenizer = pre_tokenizers.Split(BARRIER, "removed")
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + num_phrases, show_progress=False)
    second.train_from_iterator(sequences, trainer)

    token_of = {chr(FIRST_SYMBOL + index): token for token, index in vocab.items()}
    for pair in json.loads(second.to_str())["model"]["merges"]:
        left, right = ("".join(token_of[symbol] for symbol in part) for part in pair)
        vocab.setdefault(left + right, len(vocab))
        merges.append((left, right))

    phrases = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    phrases.add_special_tokens([entry["content"] for entry in state["added_tokens"]])
    phrases.pre_tokenizer = pre_tokenizers.Sequence(
        [phrase_splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    phrases.decoder = words.decoder
    return phrases


def _symbol_sequences(
    words: "Tokenizer", phrase_splitter: "PreTokenizer", texts: Iterable[str]
) -> Iterator[str]:
    """Write each phrase of the texts as one private character a word."""
    symbols: dict[str, str] = {}
    for text in texts:
        for phrase, _ in phrase_splitter.pre_tokenize_str(text):
            pieces = [piece for piece, _ in words.pre_tokenizer.pre_tokenize_str(phrase)]
            for piece in pieces:
                if piece not in symbols:
                    ids = [token.id for token in words.model.tokenize(piece)]
                    symbols[piece] = chr(FIRST_SYMBOL + ids[0]) if len(ids) == 1 else BARRIER
            yield "".join(symbols[piece] for piece in pieces)
