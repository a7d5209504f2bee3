import pytest
import torch
from torch import nn

from ldm_text.evaluation.metrics import (
    copied_share,
    corpus_bleu,
    mean_distinct_texts,
    reconstruction_accuracy,
)

TEXT = "The Mill is a cheap pub near the river ."


def test_bleu_ignores_case_and_takes_the_best_of_all_references():
    assert corpus_bleu([TEXT.upper()], [[TEXT]]) == pytest.approx(100)
    assert corpus_bleu([TEXT], [["Something else entirely , no match", TEXT]]) == pytest.approx(100)
    assert corpus_bleu([TEXT], [["Something else entirely , no match"]]) < 5


def test_bleu_takes_rows_with_different_numbers_of_references():
    texts, references = [TEXT, TEXT], [[TEXT], ["no match at all here", TEXT, "nor here"]]
    assert corpus_bleu(texts, references) == pytest.approx(100)
    assert corpus_bleu(texts, references[::-1]) == pytest.approx(100)
    assert corpus_bleu(texts, [[TEXT], ["no match at all here"]]) < 80


def test_distinct_and_copied_texts_are_counted():
    assert mean_distinct_texts([["a", "a", "b"], ["c", "c", "c"]]) == 1.5
    assert copied_share(["a", "b", "b", "c"], {"b", "d"}) == 0.5


class Shifted(nn.Module):
    """An autoencoder that gets the second token of the first row wrong."""

    def reconstruct(self, input_ids, attention_mask):
        wrong = input_ids.clone()
        wrong[0, 1] += 1
        return wrong.masked_fill(~attention_mask, 99)


def test_reconstruction_is_judged_on_real_tokens():
    ids = torch.tensor([[5, 6, 1, 0], [7, 8, 9, 1]])
    accuracy = reconstruction_accuracy(Shifted(), ids, ids != 0)
    assert accuracy["token_accuracy"] == pytest.approx(6 / 7)
    assert accuracy["exact_sequences"] == 0.5
