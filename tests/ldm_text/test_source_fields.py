"""Fields of sources that begin with latents of their own."""

import pytest
import torch

from ldm_text.prompts import tokenize_prompts
from ldm_text.source_fields import SourceFields
from ldm_text.tokenizer import encode_text, encode_texts

SOURCE = "name[The Mill], food[French], near[Café]"


@pytest.mark.parametrize("tokens_per_latent", [2, 4, 8])
def test_each_field_begins_a_patch(toy_tokenizer, tokens_per_latent):
    ids = SourceFields("],", tokens_per_latent).encode(toy_tokenizer, [SOURCE])[0]
    starts = [0]
    for field in ("name[The Mill],", " food[French],"):
        length = len(encode_text(toy_tokenizer, field))
        starts.append(starts[-1] + -(-length // tokens_per_latent) * tokens_per_latent)
    for start, field in zip(
        starts, ("name[The Mill],", " food[French],", " near[Café]"), strict=True
    ):
        expected = encode_text(toy_tokenizer, field)
        assert ids[start : start + len(expected)] == expected
    assert len(ids) == starts[-1] + len(encode_text(toy_tokenizer, " near[Café]"))


@pytest.mark.parametrize("separator", [None, "],", "], ", ",", "|"])
def test_without_its_padding_a_source_is_what_it_was(toy_tokenizer, separator):
    sources = [SOURCE, "", "],],]", "no fields", "a|b||c"]
    padded = SourceFields(separator, 4).encode(toy_tokenizer, sources)
    plain = encode_texts(toy_tokenizer, sources)
    assert [[i for i in row if i != toy_tokenizer.pad_token_id] for row in padded] == plain
    assert (padded == plain) == (separator is None)


def test_a_token_across_the_border_begins_the_next_field(toy_tokenizer):
    encoded = toy_tokenizer(SOURCE, return_offsets_mapping=True)
    plain, offsets = encoded["input_ids"], encoded["offset_mapping"]
    index, (start, _) = next(
        (i, place) for i, place in enumerate(offsets) if i % 4 and place[1] > place[0] + 1
    )
    padded = SourceFields(SOURCE[: start + 1], 4).encode(toy_tokenizer, [SOURCE])[0]
    num_pads = -index % 4
    assert padded == plain[:index] + [toy_tokenizer.pad_token_id] * num_pads + plain[index:]


def test_one_token_a_latent_needs_no_padding(toy_tokenizer):
    ids = SourceFields("],", 1).encode(toy_tokenizer, [SOURCE])
    assert ids == encode_texts(toy_tokenizer, [SOURCE])


def test_an_empty_separator_is_refused():
    with pytest.raises(ValueError, match="`source_separator` must hold at least one character"):
        SourceFields("", 4)


def test_padding_counts_as_length(toy_tokenizer):
    plain = encode_text(toy_tokenizer, SOURCE)
    fields = SourceFields("[", 8)
    limit = len(plain) + 1
    assert tokenize_prompts(toy_tokenizer, [SOURCE], limit) == [
        [*plain, toy_tokenizer.eos_token_id]
    ]
    with pytest.raises(ValueError, match=rf"the model takes at most {limit - 1}"):
        tokenize_prompts(toy_tokenizer, [SOURCE], limit, fields=fields)
    cut = tokenize_prompts(toy_tokenizer, [SOURCE], limit, truncate=True, fields=fields)[0]
    assert len(cut) == limit
    assert cut[-1] == toy_tokenizer.eos_token_id


def test_a_field_has_the_same_first_latents_wherever_it_stands(make_pipeline):
    """Without blocks, which see the neighbours, the encoder reads each patch by itself."""
    plain, aligned = make_pipeline(), make_pipeline(source_separator="],")
    for pipeline, same in ((plain, False), (aligned, True)):
        pipeline.autoencoder.encoder.transformer.blocks = torch.nn.ModuleList()
        (one, _), (other, _) = (
            pipeline.encode_prompts([f"{name}], food[French"], truncate=True)
            for name in ("a", "abcdefg")
        )
        length = pipeline.autoencoder.config.tokens_per_latent
        place = [
            len(SourceFields("],", length).encode(pipeline.tokenizer, [f"{name}],"])[0])
            for name in ("a", "abcdefg")
        ]
        starts = [-(-n // length) for n in place]
        pairs = zip(one[0, starts[0] :], other[0, starts[1] :], strict=False)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs) == same
