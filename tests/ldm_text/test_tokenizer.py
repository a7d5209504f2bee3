import random

import pytest

from ldm_text.data.readers import resolve_path
from ldm_text.phrases import PHRASE_PATTERN
from ldm_text.tokenizer import (
    encode_text,
    encode_texts,
    load_tokenizer,
    train_tokenizer,
)

KINDS = ("words", "phrases")
HARD_TEXTS = [
    "",
    " ",
    "\n\n  two  spaces \t tab\r\n",
    "caf\u00e9 \u00a320 \u4f60\u597d \U0001f600\U0001f468\u200d\U0001f469 e\u0301",
    "the end <|end|> is not <|pad|><|mask|> the end",
    "<|end|>",
    "a . b , c ' d n't \"quoted\" (x) [y] -- ...",
    "\x00\x01\ufeff\u2028\u00a0\u3000",
    "\u0130\ufb01 \u1e9b\u0323",  # would change under any Unicode normalization
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    loaded = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        train_tokenizer(
            "excerpt:e2e_validation",
            folder,
            vocab_size=600,
            pre_tokenizer=kind,
            text_field="target",
            source_field="source",
        )
        loaded[kind] = load_tokenizer(folder)
    return loaded


def random_texts(count, seed=0):
    generator = random.Random(seed)
    pools = [
        " \n\t.,!?'[]<|>-",
        "abcdefghijklmnopqrstuvwxyz   ",
        [chr(code) for code in range(0x20, 0x600)],
        [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000],
        ["<|end|>", "<|pad|>", "<|mask|>", " ", "end"],
    ]
    for _ in range(count):
        pool = generator.choice(pools)
        yield "".join(
            generator.choice(pool if generator.random() < 0.7 else generator.choice(pools))
            for _ in range(generator.randrange(40))
        )


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_survives_encoding_and_decoding(tokenizers, kind):
    tokenizer = tokenizers[kind]
    texts = [*HARD_TEXTS, *random_texts(500)]
    for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS)
def test_text_never_becomes_a_special_token(tokenizers, kind):
    tokenizer = tokenizers[kind]
    for text in ("<|end|>", "a<|pad|>b", *random_texts(200, seed=1)):
        assert not set(encode_text(tokenizer, text)) & {0, 1, 2}
        # transformers' own call, as a pipeline makes it, must agree with ours.
        assert tokenizer.encode(text) == encode_text(tokenizer, text)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_fixed_ids_and_the_bytes_are_all_there(tokenizers, kind):
    tokenizer = tokenizers[kind]
    assert tokenizer.convert_tokens_to_ids(["<|pad|>", "<|end|>", "<|mask|>"]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 1, 2)
    assert len(tokenizer) == 600
    every_character = "".join(map(chr, range(256))) + "\u20ac\U0001f600"
    assert tokenizer.decode(encode_text(tokenizer, every_character)) == every_character
    assert tokenizer.decode([5, 1, 0, 0], skip_special_tokens=True) == tokenizer.decode([5])


def test_encoding_several_texts_equals_encoding_each(tokenizers):
    tokenizer = tokenizers["words"]
    texts = ["one text", "", "another, longer text"]
    assert encode_texts(tokenizer, texts) == [encode_text(tokenizer, text) for text in texts]
    assert encode_texts(tokenizer, []) == []


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("name[The Vaults], food[French]", ["name[", "The Vaults],", " food[", "French]"]),
        (
            "The Vaults is a nice pub. It is cheap",
            ["The Vaults is a nice pub.", " It is cheap"],
        ),
        ("one\n\ntwo", ["one", "\n\n", "two"]),
        ("double  space", ["double", " ", " space"]),
        ('He said, "Hi!"', ["He said,", ' "', 'Hi!"']),
        ("costs \u00a320", ["costs \u00a320"]),
    ],
)
def test_phrases_cross_spaces_but_not_punctuation(text, phrases):
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PHRASE_PATTERN), behavior="isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == phrases


def test_only_phrases_make_tokens_of_several_words(tokenizers):
    longest = {
        kind: max(tokenizer.decode([number]).strip().count(" ") for number in range(600))
        for kind, tokenizer in tokenizers.items()
    }
    assert longest["words"] == 0
    assert longest["phrases"] > 0


def test_a_repeated_source_counts_once_for_the_merges(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "ab", "source": "qxqxqx"}\n' * 50)
    train_tokenizer(str(data), tmp_path, vocab_size=260, source_field="source")
    tokenizer = load_tokenizer(tmp_path)
    assert [len(encode_text(tokenizer, text)) for text in ("ab", "qx")] == [1, 2]


def test_a_vocabulary_that_cannot_be_filled_is_reported(tmp_path, caplog):
    (tmp_path / "data.txt").write_text("ab ab")
    train_tokenizer(str(tmp_path / "data.txt"), tmp_path / "out", vocab_size=1000)
    assert "yields only 261 tokens, 1000 were asked for" in caplog.text
    assert len(load_tokenizer(tmp_path / "out")) == 261


def test_training_refuses_what_cannot_work(tmp_path):
    with pytest.raises(ValueError, match=r"`vocab_size` must be at least 259 .* got 258"):
        train_tokenizer("excerpt:e2e_validation", tmp_path, vocab_size=258)
    with pytest.raises(ValueError, match=r"`pre_tokenizer` must be words or phrases, got 'bytes'"):
        train_tokenizer("excerpt:e2e_validation", tmp_path, pre_tokenizer="bytes")
    with pytest.raises(ValueError, match=r"e2e_validation\.jsonl\.xz, line 1: no field `text`"):
        train_tokenizer("excerpt:e2e_validation", tmp_path)
    assert not list(tmp_path.iterdir())


def test_loading_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No tokenizer in .*: `tokenizer\.json` is missing"
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"The tokenizer in .* cannot be read"):
        load_tokenizer(tmp_path)


def test_loading_refuses_a_tokenizer_without_the_special_tokens(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE({"a": 0, "</s>": 1}, []))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no pad_token, mask_token\."):
        load_tokenizer(tmp_path)


def test_excerpts_together_stay_small():
    folder = resolve_path("excerpt:e2e_train").parent
    assert sum(path.stat().st_size for path in folder.glob("*.xz")) < 290_000
