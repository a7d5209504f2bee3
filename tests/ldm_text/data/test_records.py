import gzip
import json
import lzma

import pytest
import zstandard

from ldm_text.data.readers import data_fingerprint
from ldm_text.data.records import TextRecord, read_prompts, read_records

ROWS = [
    {"source": "name[Zizzi]", "text": "Zizzi is a pub.", "references": ["a", "b"]},
    {"source": "", "text": "two\nlines\u2028and \U0001f600  spaces ", "references": []},
]
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def jsonl(rows):
    # Unescaped, so that a separator like U+2028 is really in the file.
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def texts(data, **options):
    return [record.text for record in read_records(data, **options)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_json_lines_are_read_plain_and_compressed(tmp_path, suffix):
    path = write(tmp_path, f"data.jsonl{suffix}", COMPRESS[suffix](jsonl(ROWS)))
    records = list(read_records(path, source_field="source", references_field="references"))
    assert records == [
        TextRecord("Zizzi is a pub.", "name[Zizzi]", ("a", "b")),
        TextRecord("two\nlines\u2028and \U0001f600  spaces ", "", ()),
    ]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_files_hold_one_record_a_line_and_blank_lines_are_skipped(tmp_path, suffix):
    content = "\ufefffirst\r\n\n  \nsecond \u2028 line\x0b\n last".encode()
    path = write(tmp_path, f"data.txt{suffix}", COMPRESS[suffix](content))
    assert texts(path) == ["first", "second \u2028 line\x0b", " last"]


def test_zst_files_may_hold_several_frames_and_long_lines(tmp_path):
    lines = ["x" * 3_000_000, "short"]
    frames = b"".join(zstandard.compress(f"{line}\n".encode()) for line in lines)
    assert texts(write(tmp_path, "data.txt.zst", frames)) == lines


def test_fields_that_are_not_asked_for_are_not_read(tmp_path):
    path = write(tmp_path, "data.jsonl", b'{"target": "yes", "source": 3, "text": null}\n\n')
    assert list(read_records(path, text_field="target")) == [TextRecord("yes", None, ())]


def test_parquet_files_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    records = list(read_records(path, source_field="source", references_field="references"))
    assert records[0] == TextRecord("Zizzi is a pub.", "name[Zizzi]", ("a", "b"))
    assert len(records) == 2


def test_dataset_folders_are_read_with_and_without_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "whole")
    datasets.DatasetDict({"train": whole, "dev": whole.select([1])}).save_to_disk(tmp_path / "dict")
    assert texts(tmp_path / "whole") == [row["text"] for row in ROWS]
    assert texts(tmp_path / "dict", split="dev") == [ROWS[1]["text"]]
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, dev"):
        texts(tmp_path / "dict", split="test")


def test_hub_names_give_name_config_and_split_to_the_library(monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(name, config, *, split):
        calls.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert texts("hub:owner/name", split="dev") == [row["text"] for row in ROWS]
    assert len(texts("hub:owner/name:small")) == 2
    assert calls == [("owner/name", None, "dev"), ("owner/name", "small", "train")]


def test_a_hub_failure_is_one_line_that_names_the_data(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_args, **_options):
        raise ConnectionError("no route\nlong explanation")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"^hub:a/b \(split 'train'\) cannot be loaded: no route$"):
        texts("hub:a/b")


def test_excerpts_come_with_the_package():
    first = next(read_records("excerpt:e2e_train", text_field="target", source_field="source"))
    assert first.source.startswith("name[")
    validation = list(
        read_records(
            "excerpt:e2e_validation",
            text_field="target",
            source_field="source",
            references_field="references",
        )
    )
    assert len(validation) == 100
    assert all(record.text == record.references[0] for record in validation)
    assert len(texts("excerpt:tinystories_train")) == 400
    assert len(texts("excerpt:tinystories_validation")) == 40
    with pytest.raises(FileNotFoundError, match=r"No excerpt 'e2e'; there are e2e_train, e2e_val"):
        texts("excerpt:e2e")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b'\n["text"]\n', r"a\.jsonl, line 2: expected a JSON object, got list"),
        ("a.jsonl", b'{"txt": "", "id": 1}', r"line 1: no field `text`; .* 'txt', 'id'\."),
        ("a.jsonl", b'{"text": null}', r"line 1: field `text` must be a string, got NoneType"),
        ("a.jsonl", b'{"text": "\\ud83d"}', r"line 1: field `text` contains half of a surrogate"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"line 2: not valid UTF-8"),
        ("a.txt", b"a\nb\n\xc3\n", r"a\.txt, line 3: not valid UTF-8"),
        ("a.jsonl", b"", r"a\.jsonl holds no records"),
        ("a.txt", b"\n \n", r"a\.txt holds no records"),
        ("a.csv", b"text\na\n", r"a\.csv: unknown kind of file"),
        ("a.csv.gz", b"", r"a\.csv\.gz: unknown kind of file"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz: unknown kind of file"),
        ("noextension", b"a", r"noextension: unknown kind of file"),
        ("a.parquet", b"no parquet", r"a\.parquet is not a readable Parquet file"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz is damaged or cut off after line 0"),
        ("a.txt.xz", b"no xz at all", r"a\.txt\.xz is damaged or cut off after line 0"),
        ("a.txt.zst", b"no zstandard", r"a\.txt\.zst is damaged or cut off after line 0"),
    ],
)
def test_bad_content_is_named_with_file_and_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        texts(write(tmp_path, name, content))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_that_is_cut_off_does_not_pass_for_a_short_one(tmp_path, suffix):
    whole = COMPRESS[suffix](b"".join(f"line {number}\n".encode() for number in range(50_000)))
    for end in (len(whole) // 2, len(whole) - 1):
        path = write(tmp_path, f"cut.txt{suffix}", whole[:end])
        with pytest.raises(ValueError, match=r"is damaged or cut off after line \d+"):
            texts(path)


def test_references_must_be_a_list_of_strings(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"text": "", "refs": "a"}')
    with pytest.raises(
        ValueError, match=r"line 1: field `refs` must be a list of strings, got str"
    ):
        texts(path, references_field="refs")
    path = write(tmp_path, "b.jsonl", b'{"text": "", "refs": ["a", 2]}')
    with pytest.raises(ValueError, match=r"line 1: field `refs` must be a string, got int"):
        texts(path, references_field="refs")


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or folder: .*none\.jsonl"):
        texts(tmp_path / "none.jsonl")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a folder written by `datasets`"):
        texts(tmp_path)


def test_prompts_are_sources_or_lines(tmp_path):
    assert read_prompts(write(tmp_path, "a.jsonl", jsonl(ROWS))) == ["name[Zizzi]", ""]
    assert read_prompts(write(tmp_path, "a.jsonl", jsonl(ROWS)), "text")[0] == "Zizzi is a pub."
    assert read_prompts(write(tmp_path, "b.txt", b"one\n\ntwo"), "anything") == ["one", "two"]
    with pytest.raises(ValueError, match=r"line 1: no field `prompt`"):
        read_prompts(write(tmp_path, "a.jsonl", jsonl(ROWS)), "prompt")


def test_fingerprints_follow_the_content_and_not_the_name(tmp_path):
    first = data_fingerprint(write(tmp_path, "a.txt", b"a"))
    assert data_fingerprint(write(tmp_path, "b.txt", b"a")) == first
    assert data_fingerprint(write(tmp_path, "a.txt", b"b")) != first
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_bytes(b"1")
    before = data_fingerprint(folder)
    assert data_fingerprint(folder, split="dev") != before
    (folder / "x").write_bytes(b"2")
    assert data_fingerprint(folder) != before
