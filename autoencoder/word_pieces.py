"""The word pieces of a pretrained encoder that each token of the project is made of."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import PreTrainedTokenizerFast

NO_PIECE = -1


class WordPieces:
    """A table from token ids to word pieces, so that no text is needed to change tokenizers.

    Each token is cut into pieces by itself: where a word has several tokens, its pieces are those
    of its parts, which can differ from those of the whole word. With MiniLM and vocabularies of
    2,048 tokens, 99 % of the pieces of whole E2E texts are found again, and 92 % of those of
    TinyStories. A token that begins within a word has continuing pieces (``##ing``). Case, accents
    and the kinds of white space are lost where the pretrained tokenizer drops them; a token of
    which nothing is left becomes its unknown piece.

    Args:
        token_texts: Text of each token id, with the space before it where it begins a word.
        tokenizer: Tokenizer of the pretrained encoder.
        special: Pieces of the tokens that are no text, by token id.

    Attributes:
        starting: Pieces of a token after the end of a word, ``(V, P)``, filled up with -1.
        continuing: Its pieces directly behind a letter or digit, same shape.
        ends_in_word: True where a token ends with a letter or digit, ``(V,)``.

    Raises:
        ValueError: If the tokenizer is not one of word pieces, as those of the BERT family are.
    """

    def __init__(
        self,
        token_texts: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        special: Mapping[int, int],
    ) -> None:
        if not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
            name = type(tokenizer.backend_tokenizer.model).__name__
            raise ValueError(
                f"A pretrained encoder needs a tokenizer of word pieces, as BERT's, got {name}."
            )
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.get_vocab()
        rows = [self.pieces_of(text) for text in token_texts]
        for token_id, piece in special.items():
            rows[token_id] = ([piece], [piece], False)
        starting, continuing, ends_in_word = zip(*rows, strict=True)
        width = max(map(len, [*starting, *continuing]))
        self.starting, self.continuing = (
            torch.tensor([pieces + [NO_PIECE] * (width - len(pieces)) for pieces in table])
            for table in (starting, continuing)
        )
        self.ends_in_word = torch.tensor(ends_in_word)

    def pieces_of(self, text: str) -> tuple[list[int], list[int], bool]:
        """Return a token's starting and continuing pieces, and whether it ends within a word."""
        backend, unknown = self.tokenizer.backend_tokenizer, [self.tokenizer.unk_token_id]
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = backend.pre_tokenizer.pre_tokenize_str(plain)
        starting = [self.word_pieces(word, starts=True) for word, _ in words]
        continuing = list(starting)
        if words and words[0][1][0] == 0 and words[0][0][0].isalnum():
            continuing[0] = self.word_pieces(words[0][0], starts=False)
        joined = [list(chain(*pieces)) or unknown for pieces in (starting, continuing)]
        return joined[0], joined[1], plain[-1:].isalnum()

    def word_pieces(self, word: str, starts: bool) -> list[int]:
        """Cut a word into the longest pieces from the left (Wu et al. 2016), ids of the pieces."""
        pieces = []
        while word:
            prefix = "" if starts and not pieces else "##"
            lengths = range(len(word), 0, -1)
            length = next((n for n in lengths if prefix + word[:n] in self.vocabulary), 0)
            if not length:
                return [self.tokenizer.unk_token_id]
            pieces.append(self.vocabulary[prefix + word[:length]])
            word = word[length:]
        return pieces

    def look_up(self, input_ids: Tensor, follows: Tensor) -> Tensor:
        """Return the pieces of tokens.

        Args:
            input_ids: ``(B, S)``.
            follows: True where a token stands behind another of the same text, ``(B, S)``.

        Returns:
            Ids of pieces ``(B, S, P)``, filled up with -1.
        """
        device = input_ids.device
        open_before = self.ends_in_word.to(device)[input_ids].roll(1, dims=1) & follows
        starting, continuing = (
            table.to(device)[input_ids] for table in (self.starting, self.continuing)
        )
        return torch.where(open_before[..., None], continuing, starting)
