import pytest
import torch
from transformers import BertModel, PreTrainedTokenizerFast

from autoencoder.frozen_encoder import encoder_folder, load_frozen_encoder, load_piece_tokenizer
from autoencoder.token_states import SpecialTokens, TokenStates
from autoencoder.word_pieces import WordPieces

PAD, END, MASK = 0, 1, 2
THE, CAT, S, _S, AT, DOT, NEWLINE, CATS = range(3, 11)


@pytest.fixture
def states(pretrained, token_texts):
    return TokenStates(pretrained, token_texts, SpecialTokens(PAD, END, MASK))


def words(states, ids):
    """Write the word pieces of a text."""
    ids = torch.tensor([ids])
    follows = torch.ones_like(ids, dtype=torch.bool)
    follows[:, 0] = False
    pieces = states.pieces.look_up(ids, follows)
    return states.pieces.tokenizer.convert_ids_to_tokens(pieces[pieces >= 0].tolist())


def test_tokens_are_cut_into_the_pieces_of_their_text(states):
    assert words(states, [THE, CAT, DOT]) == ["the", "cat", "."]
    assert words(states, [CATS]) == ["cat", "##s", "."]
    assert words(states, [THE, 14]) == ["the", "w", "##3"]


def test_a_token_within_a_word_has_continuing_pieces(states):
    assert words(states, [CAT, S, AT]) == ["cat", "##s", "##at"]
    assert words(states, [DOT, S, DOT, AT]) == [".", "s", ".", "at"]
    assert words(states, [S, AT]) == ["s", "##at"]
    assert words(states, [MASK, S]) == ["[MASK]", "s"]


def test_no_token_is_without_a_piece(states):
    assert words(states, [NEWLINE]) == ["[UNK]"]
    assert words(states, [CAT, END]) == ["cat", "[SEP]"]


def test_a_tokenizer_without_word_pieces_is_refused(token_texts):
    from tokenizers import Tokenizer, models

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="needs a tokenizer of word pieces, as BERT's, got BPE"):
        WordPieces(token_texts, other, {})


def test_states_are_those_of_the_encoder_on_the_text(states, pretrained):
    """Averaged over the pieces of a token, with the text read as the encoder reads texts."""
    ids = torch.tensor([[THE, CATS, END, PAD]])
    found = states(ids, ids != PAD)
    tokenizer, encoder = load_piece_tokenizer(pretrained), BertModel.from_pretrained(pretrained)
    pieces = ["[CLS]", "the", "cat", "##s", ".", "[SEP]"]
    piece_ids = torch.tensor([tokenizer.convert_tokens_to_ids(pieces)])
    with torch.no_grad():
        own = encoder.eval()(input_ids=piece_ids).last_hidden_state[0]
    assert torch.allclose(found[0, 0], own[1], atol=1e-5)
    assert torch.allclose(found[0, 1], own[2:5].mean(dim=0), atol=1e-5)
    assert torch.allclose(found[0, 2], own[5], atol=1e-5)
    assert not found[0, 3].any()


def test_texts_of_one_row_do_not_see_each_other(states):
    first, second = [THE, CAT, END], [S, AT, DOT, END]
    row = torch.tensor([first + second])
    documents = torch.tensor([[0] * 3 + [1] * 4])
    together = states(row, row != PAD, documents)
    for ids, place in ((first, slice(0, 3)), (second, slice(3, 7))):
        alone = torch.tensor([ids])
        assert torch.allclose(together[:, place], states(alone, alone != PAD), atol=1e-5)


def test_a_text_with_a_gap_is_one_text(states):
    """Known parts of a text see each other, and nothing of what is hidden between them."""
    ids = torch.tensor([[THE, CAT, DOT, DOT, CATS, END, PAD]])
    known = torch.tensor([[True, True, False, False, True, True, False]])
    found = states(ids, known)
    joined = torch.tensor([[THE, CAT, CATS, END]])
    assert torch.allclose(found[known], states(joined, joined != PAD)[0], atol=1e-5)
    assert not found[~known].any()


def test_a_batch_without_text_has_states_of_zero(states):
    nothing = torch.zeros(2, 4, dtype=torch.long)
    assert torch.equal(states(nothing, nothing != PAD), torch.zeros(2, 4, 16))


def test_a_text_that_is_too_long_is_refused(states):
    ids = torch.full((1, 64), CATS)
    with pytest.raises(ValueError, match=r"A text has 193 word pieces, .* reads at most 64"):
        states(ids, ids != PAD)


def test_the_encoder_is_loaded_once_and_frozen(pretrained):
    encoder = load_frozen_encoder(pretrained, torch.device("cpu"))
    assert load_frozen_encoder(pretrained, torch.device("cpu")) is encoder
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not encoder.training


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No pretrained encoder at `.*nowhere`"):
        encoder_folder(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="is no pretrained encoder"):
        load_piece_tokenizer(str(tmp_path))
