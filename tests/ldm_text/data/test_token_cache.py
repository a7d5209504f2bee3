import json

import numpy as np
import pytest

from ldm_text.data import token_cache
from ldm_text.data.length_policy import LengthPolicy
from ldm_text.data.records import TextRecord
from ldm_text.data.token_cache import (
    build_token_cache,
    cache_key,
    default_cache_dir,
    open_token_cache,
)
from ldm_text.tokenizer import encode_text

RECORDS = [
    TextRecord("The Vaults is a pub.", "name[The Vaults]"),
    TextRecord("", ""),
    TextRecord("Caf\u00e9 <|end|>\n\nZizzi", "name[Zizzi]"),
]


def policy(long_texts="error", max_length_tokens=64):
    return LengthPolicy(long_texts, max_length_tokens, max_source_length_tokens=64)


def test_every_row_comes_back_as_the_tokenizer_made_it(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(token_cache, "RECORDS_PER_BATCH", 2)
    build_token_cache(tmp_path / "cache", iter(RECORDS), tokenizer, policy(), "data")
    cache = open_token_cache(tmp_path / "cache")
    assert len(cache) == 3
    for row, record in enumerate(RECORDS):
        assert cache.text[row].tolist() == encode_text(tokenizer, record.text)
        assert cache.source[row].tolist() == encode_text(tokenizer, record.source)
    assert cache.text.ids.dtype == np.uint16
    assert isinstance(cache.text.ids, np.memmap)


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path, tokenizer, monkeypatch):
    class LargeTokenizer:
        def __len__(self):
            return 70_000

    monkeypatch.setattr(
        token_cache,
        "encode_texts",
        lambda _tokenizer, texts: [[65_536 + len(text)] for text in texts],
    )
    build_token_cache(tmp_path / "c", [TextRecord("abc")], LargeTokenizer(), policy(), "data")
    assert open_token_cache(tmp_path / "c").text[0].tolist() == [65_539]


def test_records_without_source_make_no_source_column(tmp_path, tokenizer):
    build_token_cache(tmp_path / "cache", [TextRecord("a")], tokenizer, policy(), "data")
    assert open_token_cache(tmp_path / "cache").source is None


def test_rows_that_are_all_empty_can_be_opened(tmp_path, tokenizer):
    build_token_cache(tmp_path / "cache", [TextRecord("", "")] * 2, tokenizer, policy(), "data")
    cache = open_token_cache(tmp_path / "cache")
    assert [len(cache), len(cache.text[1]), len(cache.source[0])] == [2, 0, 0]


def test_an_interrupted_build_leaves_nothing(tmp_path, tokenizer):
    def records():
        yield TextRecord("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_token_cache(tmp_path / "cache", records(), tokenizer, policy(), "data")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_not_there_before_it_is_complete(tmp_path, tokenizer):
    def records():
        yield TextRecord("a")
        assert not (tmp_path / "cache").exists()

    build_token_cache(tmp_path / "cache", records(), tokenizer, policy(), "data")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_build_that_comes_second_keeps_the_first(tmp_path, tokenizer):
    build_token_cache(tmp_path / "cache", [TextRecord("a")], tokenizer, policy(), "first")
    build_token_cache(tmp_path / "cache", [TextRecord("a")], tokenizer, policy(), "second")
    assert json.loads((tmp_path / "cache" / "meta.json").read_text())["name"] == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_no_rows_is_an_error_that_says_why(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"data leaves no rows: 1 records were too long"):
        build_token_cache(
            tmp_path / "cache", [TextRecord("x" * 99)], tokenizer, policy("drop"), "data"
        )


def test_dropped_records_are_logged_also_when_the_cache_is_reused(tmp_path, tokenizer, caplog):
    records = [TextRecord("x" * 99), TextRecord("a")]
    build_token_cache(tmp_path / "cache", records, tokenizer, policy("drop"), "data")
    for _ in range(2):
        caplog.clear()
        open_token_cache(tmp_path / "cache")
        assert "data: 1 records too long and dropped." in caplog.text


def test_a_long_text_is_named_by_its_record(tmp_path, tokenizer):
    records = [TextRecord("a"), TextRecord("x" * 99)]
    with pytest.raises(ValueError, match=r"data, record 2: the text has \d+ tokens"):
        build_token_cache(tmp_path / "cache", records, tokenizer, policy(), "data")


def test_a_damaged_folder_says_what_to_do(tmp_path, tokenizer):
    build_token_cache(tmp_path / "cache", [TextRecord("a")], tokenizer, policy(), "data")
    (tmp_path / "cache" / "text_ids.npy").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"The token cache .*cache is damaged .* Delete the folder"
    ):
        open_token_cache(tmp_path / "cache")


def test_keys_change_with_data_tokenizer_and_length_options(tokenizer):
    class OtherTokenizer:
        class backend_tokenizer:
            @staticmethod
            def to_str():
                return "{}"

    window = LengthPolicy("split", 64, 64, previous_as_source=True)
    keys = [
        cache_key("a", tokenizer, policy()),
        cache_key("b", tokenizer, policy()),
        cache_key("a", OtherTokenizer(), policy()),
        cache_key("a", tokenizer, policy("drop")),
        cache_key("a", tokenizer, policy(max_length_tokens=32)),
        cache_key("a", tokenizer, LengthPolicy("error", 64, 32)),
        cache_key("a", tokenizer, policy("split")),
        cache_key("a", tokenizer, window),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key("a", tokenizer, policy()) == keys[0]


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("LDM_TEXT_CACHE")
    assert default_cache_dir().parts[-2:] == (".cache", "ldm-text")
