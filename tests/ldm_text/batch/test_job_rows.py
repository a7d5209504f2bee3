"""Rows of a job: the columns that are carried through, and the rows that are rejected."""

import json
from datetime import datetime

import pyarrow
import pytest
from pyarrow import parquet

from ldm_text.batch.job import EXIT_CODE_REJECTS, run_job
from ldm_text.batch.work import Outputs, RowError
from ldm_text.data.compression import read_lines
from tests.ldm_text.batch.toy_work import ToyWork, digest, options_for, read

# Columns


def test_columns_are_carried_through(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"source": "a", "id": 7, "tags": ["x", None], "name": "\u00e9"}, {"source": "b"}]
    path.write_text("".join(json.dumps(rows[0]) + "\n" for _ in range(3)))
    options = {"columns": ("id", "tags", "name")}
    run_job(ToyWork(), options_for(path, tmp_path / "out.jsonl", **options))
    carried = {"input_id": 7, "tags": ["x", None], "name": "\u00e9"}
    records = read(tmp_path / "out.jsonl")
    assert [record["id"] for record in records] == [0, 1, 2]
    assert all(carried.items() <= record.items() for record in records)
    run_job(ToyWork(), options_for(path, tmp_path / "out.parquet", **options))
    as_text = carried | {"input_id": "7", "tags": '["x", null]'}
    assert as_text.items() <= read(tmp_path / "out.parquet")[0].items()


def test_columns_of_a_table_keep_their_types_in_a_table(tmp_path):
    when = datetime(2026, 5, 4, 3, 2, 1)
    table = pyarrow.table({"source": ["a", "b"], "when": [when, None], "score": [0.5, 1.5]})
    parquet.write_table(table, tmp_path / "prompts.parquet")
    for name in ("out.parquet", "out.jsonl"):
        options = options_for(
            tmp_path / "prompts.parquet", tmp_path / name, columns=("when", "score")
        )
        run_job(ToyWork(), options)
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written.select(["when", "score"]).equals(table.select(["when", "score"]))
    assert [row["when"] for row in read(tmp_path / "out.jsonl")] == ["2026-05-04T03:02:01", None]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"source": "a"}, "no column `extra`"),
        ({"source": "a", "extra": "\ud800"}, "a column cannot be carried through"),
        ({"source": "a", "extra": float("nan")}, "a column cannot be carried through"),
    ],
)
def test_a_row_whose_columns_do_not_do_is_refused(tmp_path, row, reason):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=f"prompts.jsonl, line 1: {reason}"):
        run_job(ToyWork(), options_for(path, tmp_path / "out.jsonl", columns=("extra",)))


@pytest.mark.parametrize("columns", [("a", "a"), ("id", "input_id")])
def test_columns_must_have_names_of_their_own(prompts, tmp_path, columns):
    with pytest.raises(ValueError, match="`--columns` must name each column once"):
        run_job(ToyWork(), options_for(prompts, tmp_path / "out.jsonl", columns=columns))


def test_a_column_that_a_table_lacks_is_refused_before_anything_is_written(tmp_path):
    """From table to table its type was looked up as late as with the first rows."""
    path = tmp_path / "prompts.parquet"
    parquet.write_table(pyarrow.table({"source": ["a"]}), path)
    for name in ("out.parquet", "out.jsonl"):
        options = options_for(path, tmp_path / name, columns=("nope",), on_error="reject")
        with pytest.raises(ValueError, match=r"`--columns`: .*parquet has no column `nope`; .*are"):
            run_job(ToyWork(), options)
    assert not list(tmp_path.glob("out*"))


# Rows that cannot be used

BAD_LINES = [
    (b"{", "not JSON"),
    (b"[1]", "expected a JSON object, got list"),
    (b'{"source": "\xff"}', "not valid UTF-8"),
    (b'{"source": 3}', "no source"),
    (b'{"source": "' + b"x" * 50 + b'"}', "the prompt is too long"),
    (b"[" * 100_000, "not JSON"),
    (b"\x00\x01", "not JSON"),
]


@pytest.fixture
def broken_prompts(tmp_path):
    """Return a file whose even lines are bad and whose odd ones, from 1 on, are good."""
    path = tmp_path / "prompts.jsonl"
    lines = [part for bad, _ in BAD_LINES for part in (b'{"source": "good"}', bad)]
    path.write_bytes(b"\n".join(lines))
    return path


def test_bad_rows_are_rejected_with_line_and_reason(broken_prompts, tmp_path):
    options = options_for(broken_prompts, tmp_path / "out.jsonl", on_error="reject")
    report = run_job(ToyWork(num_samples=2), options)
    assert (report.num_rejects, report.exit_code) == (len(BAD_LINES), EXIT_CODE_REJECTS)
    rejects = read(tmp_path / "out.jsonl.rejects.jsonl")
    assert [row["line"] for row in rejects] == [2 * n + 2 for n in range(len(BAD_LINES))]
    for row, (_, reason) in zip(rejects, BAD_LINES, strict=True):
        assert row["reason"].startswith(reason)
    # A row keeps its number, so that its text is the same once the others are mended.
    assert [row["id"] for row in read(tmp_path / "out.jsonl")][::2] == list(range(0, 14, 2))


def test_a_job_that_stops_at_bad_rows_does_so_before_it_begins(broken_prompts, tmp_path):
    with pytest.raises(ValueError, match=r"`--prompts`: .*prompts.jsonl, line 2: not JSON"):
        run_job(ToyWork(), options_for(broken_prompts, tmp_path / "out.jsonl"))
    assert not list(tmp_path.glob("out*"))


def test_rejects_of_an_earlier_job_do_not_stay(prompts, tmp_path):
    (tmp_path / "out.jsonl.rejects.jsonl").write_text("old")
    run_job(ToyWork(), options_for(prompts, tmp_path / "out.jsonl", on_error="reject"))
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


def test_a_line_too_long_to_be_held_is_a_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm_text.batch.line_inputs.MAX_LINE_BYTES", 1000)
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"source": "a"}\n' + b"x" * 5_000_000 + b'\n{"source": "b"}\n')
    run_job(ToyWork(), options_for(path, tmp_path / "out.jsonl", on_error="reject"))
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [0, 2]
    reject = json.loads((tmp_path / "out.jsonl.rejects.jsonl").read_text())
    assert reject == {"id": 1, "line": 2, "reason": "longer than 1000 bytes."}


class SelectiveWork(ToyWork):
    """Finds no text for the second sample of a row whose source is bad."""

    def run(self, batch):
        made = super().run(batch)
        records = [
            RowError("no text.") if "bad" in item[1] and sample == 1 else record
            for (item, sample), record in zip(batch, made.records, strict=True)
        ]
        return Outputs(records, made.num_tokens)


@pytest.fixture
def selected(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"source": source} for source in ("good", "bad one", "good", "good", "bad two")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_that_cannot_be_written_go_to_the_rejects_and_the_job_goes_on(selected, tmp_path):
    options = options_for(selected, tmp_path / "out.jsonl", on_error="reject")
    report = run_job(SelectiveWork(num_samples=2), options)
    assert (report.num_records, report.num_rejects) == (8, 2)
    assert report.exit_code == EXIT_CODE_REJECTS
    kept = [(row["id"], row["sample"]) for row in read(tmp_path / "out.jsonl")]
    assert kept == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0)]
    assert read(tmp_path / "out.jsonl")[2]["text"] == digest("bad one", 1, 0)
    assert read(tmp_path / "out.jsonl.rejects.jsonl") == [
        {"id": 1, "line": 2, "sample": 1, "reason": "no text."},
        {"id": 4, "line": 5, "sample": 1, "reason": "no text."},
    ]


def test_a_job_that_stops_does_so_at_a_text_that_cannot_be_written(selected, tmp_path):
    with pytest.raises(ValueError, match=r"prompts.jsonl, line 2: no text\."):
        run_job(SelectiveWork(num_samples=2), options_for(selected, tmp_path / "out.jsonl"))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".parquet"])
def test_an_output_without_rows_is_a_whole_file(tmp_path, suffix):
    """A compressed file of no bytes is none: it was read as a damaged one."""
    (tmp_path / "prompts.jsonl").write_text('{"source": 1}')
    path = tmp_path / f"out{suffix}"
    run_job(ToyWork(), options_for(tmp_path / "prompts.jsonl", path, on_error="reject"))
    assert read(path) == []
    if suffix != ".parquet":
        assert list(read_lines(path)) == []
    assert bool(path.stat().st_size) == (suffix != ".jsonl")
