import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from ldm_text.data import tokenization
from ldm_text.data.growing_array import GrowingArray
from ldm_text.data.length_policy import LengthPolicy
from ldm_text.data.records import TextRecord
from ldm_text.data.token_cache import cache_key, default_cache_dir, open_token_cache
from ldm_text.data.tokenization import build_token_cache
from ldm_text.tokenizer import encode_text

RECORDS = [
    TextRecord("The Vaults is a pub.", "name[The Vaults]"),
    TextRecord("", ""),
    TextRecord("Caf\u00e9 <|end|>\n\nZizzi", "name[Zizzi]"),
]


def policy(long_texts="error", max_length_tokens=64):
    return LengthPolicy(long_texts, max_length_tokens, max_source_length_tokens=64)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_every_row_comes_back_as_the_tokenizer_made_it(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenization, "MAX_BATCH_RECORDS", 2)
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
        tokenization,
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


@pytest.mark.parametrize("kept_batches", [1, 2, 3])
def test_an_interrupted_build_goes_on_where_it_was(
    tmp_path, tokenizer, monkeypatch, caplog, kept_batches
):
    monkeypatch.setattr(tokenization, "MAX_BATCH_RECORDS", 2)
    monkeypatch.setattr(tokenization, "BATCHES_PER_SAVE", kept_batches)
    records = [TextRecord(f"{number} " * (40 if number == 3 else 2), "a") for number in range(11)]
    build_token_cache(tmp_path / "whole", records, tokenizer, policy("drop"), "data")

    def until_interrupted():
        yield from records[:8]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_token_cache(
            tmp_path / "cache", until_interrupted(), tokenizer, policy("drop"), "data"
        )
    assert visible(tmp_path) == ["whole"]
    texts, encode_texts = [], tokenization.encode_texts
    monkeypatch.setattr(
        tokenization,
        "encode_texts",
        lambda tokenizer, some: texts.extend(some) or encode_texts(tokenizer, some),
    )
    caplog.set_level("INFO")
    build_token_cache(tmp_path / "cache", records, tokenizer, policy("drop"), "data")
    num_kept = {1: 8, 2: 8, 3: 6}[kept_batches]
    assert f"Going on after record {num_kept}, where" in caplog.text
    assert [text for text in texts if text != "a"] == [record.text for record in records[num_kept:]]
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "cache")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 5


def test_bad_data_leaves_nothing(tmp_path, tokenizer):
    def records():
        yield TextRecord("a")
        raise ValueError("line 2")

    with pytest.raises(ValueError, match="line 2"):
        build_token_cache(tmp_path / "cache", records(), tokenizer, policy(), "data")
    assert [path.name for path in tmp_path.iterdir()] == [".cache.lock"]


def test_rows_behind_the_last_save_are_cut_off(tmp_path):
    path = tmp_path / "a.npy"
    with GrowingArray(path, np.int32, (2,)) as array:
        array.append(np.ones((3, 2)))
    array = GrowingArray(path, np.int32, (2,), num_rows=1)
    array.append(np.zeros((1, 2)))
    array.close()
    assert np.load(path).tolist() == [[1, 1], [0, 0]]


BUILD = """
import os, sys
from pathlib import Path
from ldm_text.data import tokenization
from ldm_text.data.growing_array import GrowingArray
from ldm_text.data.length_policy import LengthPolicy
from ldm_text.data.records import TextRecord
from ldm_text.tokenizer import load_tokenizer

tokenization.MAX_BATCH_RECORDS, tokenization.BATCHES_PER_SAVE = 10, 3
kill_at = int(sys.argv[3])

def records():
    for number in range(2000):
        if number == kill_at:
            os.kill(os.getpid(), 9)
        yield TextRecord(f"text {number}", f"source {number % 7}")

policy = LengthPolicy("error", 64, 64)
tokenizer = load_tokenizer(sys.argv[2])
tokenization.build_token_cache(Path(sys.argv[1]), records(), tokenizer, policy, "d")
"""


def test_a_killed_process_and_two_at_once_write_what_one_writes(
    tmp_path, tokenizer, tokenizer_folder
):
    def start(name, kill_at=-1):
        arguments = [str(tmp_path / name), tokenizer_folder, str(kill_at)]
        return subprocess.Popen([sys.executable, "-c", BUILD, *arguments])

    assert start("cache", kill_at=1234).wait() == -9
    partial = tmp_path / ".cache.partial"
    kept = json.loads((partial / "progress.json").read_text())["num_records"]
    assert 1100 < kept <= 1230
    both = [start("cache"), start("cache")]
    assert [process.wait() for process in both] == [0, 0]
    assert visible(tmp_path) == ["cache"]
    assert not partial.exists()
    cache = open_token_cache(tmp_path / "cache")
    assert len(cache) == 2000
    assert all(
        tokenizer.decode(cache.text[row]) == f"text {row}"
        and tokenizer.decode(cache.source[row]) == f"source {row % 7}"
        for row in range(2000)
    )


def test_memory_does_not_grow_with_the_data(tmp_path, tokenizer, monkeypatch):
    """Offsets were kept in memory until the end, eight bytes a row and a column."""
    monkeypatch.setattr(tokenization, "MAX_BATCH_RECORDS", 100)
    monkeypatch.setattr(tokenization, "encode_texts", lambda _, texts: [[1]] * len(texts))

    def peak(num_records):
        records = (TextRecord("a") for _ in range(num_records))
        tracemalloc.start()
        build_token_cache(tmp_path / str(num_records), records, tokenizer, policy(), "data")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1000)
    assert peak(24_000) - peak(4000) < 100_000  # five bytes a row; the offsets alone are 16


def test_the_folder_is_not_there_before_it_is_complete(tmp_path, tokenizer):
    def records():
        yield TextRecord("a")
        assert not (tmp_path / "cache").exists()

    build_token_cache(tmp_path / "cache", records(), tokenizer, policy(), "data")
    assert visible(tmp_path) == ["cache"]


def test_a_build_that_comes_second_keeps_the_first(tmp_path, tokenizer):
    build_token_cache(tmp_path / "cache", [TextRecord("a")], tokenizer, policy(), "first")
    build_token_cache(tmp_path / "cache", [TextRecord("a")], tokenizer, policy(), "second")
    assert json.loads((tmp_path / "cache" / "meta.json").read_text())["name"] == "first"
    assert visible(tmp_path) == ["cache"]


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
