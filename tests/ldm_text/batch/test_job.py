import gzip
import json
import lzma
import os
import threading
import tracemalloc
from datetime import datetime

import pyarrow
import pytest
import torch
import zstandard
from pyarrow import parquet

from ldm_text.batch.job import EXIT_CODE_REJECTS, run_job
from ldm_text.batch.options import JobOptions
from ldm_text.batch.work import Outputs
from tests.ldm_text.batch.toy_work import ToyWork, digest, options_for

READ = {
    "out.jsonl": bytes,
    "out.jsonl.gz": gzip.decompress,
    "out.jsonl.xz": lzma.decompress,
    "out.jsonl.zst": lambda content: (
        zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
    ),
}


def read(path):
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    content = READ.get(path.name, bytes)(path.read_bytes())
    return [json.loads(line) for line in content.splitlines()]


def expected_records(num_rows=50, num_samples=1):
    sources = [f"{number} {'x' * (number * 7 % 30)}" for number in range(num_rows)]
    return [
        {"id": row, "source": source, "text": digest(source, row, sample), "sample": sample}
        for row, source in enumerate(sources)
        for sample in range(num_samples)
    ]


# Formats


@pytest.mark.parametrize("name", [*READ, "out.parquet"])
def test_every_output_format_holds_the_same_records(prompts, tmp_path, name):
    report = run_job(ToyWork(num_samples=3), options_for(prompts, tmp_path / name))
    assert read(tmp_path / name) == expected_records(num_samples=3)
    assert (report.num_records, report.num_tokens, report.exit_code) == (150, 750, 0)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".parquet", ".txt"])
def test_every_input_format_gives_the_same_texts(prompts, tmp_path, suffix):
    path = tmp_path / f"prompts{suffix}"
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    compress = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    elif suffix == ".txt":
        path.write_text("\n\n".join(row["source"] for row in rows))
    else:
        path.write_bytes(compress[path.suffix](prompts.read_bytes()))
    work = TextFieldWork() if suffix == ".txt" else ToyWork()
    for part in (1, 2, 3):
        run_job(work, options_for(path, tmp_path / f"out.jsonl{part}", shard=f"{part}/3"))
    parts = [(tmp_path / f"out.jsonl{part}").read_text() for part in (1, 2, 3)]
    assert [json.loads(line) for line in "".join(parts).splitlines()] == expected_records()


class TextFieldWork(ToyWork):
    def prepare(self, row, record):
        return super().prepare(row, {"source": record["text"]})


def test_a_named_pipe_is_read_and_standard_output_written(prompts, tmp_path, capsysbinary):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(prompts.read_bytes()))
    writer.start()
    run_job(ToyWork(), options_for(pipe, "-"))
    writer.join()
    lines = capsysbinary.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == expected_records()


# Batches


class WatchfulWork(ToyWork):
    """Keeps the lengths of the rows of each batch."""

    def run(self, batch):
        self.batches = [*getattr(self, "batches", []), [self.length(item) for item, _ in batch]]
        return super().run(batch)


def test_batches_hold_rows_of_like_lengths_and_the_output_is_in_order(prompts, tmp_path):
    work = WatchfulWork()
    run_job(work, options_for(prompts, tmp_path / "out.jsonl", batch_size=4))
    assert read(tmp_path / "out.jsonl") == expected_records()
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in work.batches)
    lengths = [len(record["source"]) for record in expected_records()]
    in_order = [lengths[start : start + 4] for start in range(0, 50, 4)]
    assert padding < 0.2 * sum(max(batch) * len(batch) - sum(batch) for batch in in_order)


class GreedyWork(WatchfulWork):
    """Asks for more memory than there is if a batch is larger than three."""

    def run(self, batch):
        torch.empty(1 << 55 if len(batch) > self.limit else 1, dtype=torch.uint8)
        return super().run(batch)

    limit = 3


def test_out_of_memory_halves_the_batch_and_says_so(prompts, tmp_path, caplog):
    work = GreedyWork()
    run_job(work, options_for(prompts, tmp_path / "out.jsonl", batch_size=16))
    assert read(tmp_path / "out.jsonl") == expected_records()
    assert {len(batch) for batch in work.batches} == {2}
    messages = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert messages == [f"Out of memory, going on with batches of {n}" for n in (8, 4, 2)]


def test_no_memory_for_a_single_row_ends_the_job(prompts, tmp_path):
    work = GreedyWork()
    work.limit = 0
    with pytest.raises(MemoryError, match="There is no memory for a single row: "):
        run_job(work, options_for(prompts, tmp_path / "out.jsonl"))


class FaultyWork(ToyWork):
    def run(self, batch) -> Outputs:
        raise RuntimeError("shapes do not fit")


def test_an_error_of_the_work_is_not_taken_for_a_lack_of_memory(prompts, tmp_path):
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_job(FaultyWork(), options_for(prompts, tmp_path / "out.jsonl"))


def test_memory_does_not_grow_with_the_input(write_rows, tmp_path):
    peaks = []
    for num_rows in (500, 3_000):
        path = write_rows(num_rows, f"{num_rows}.jsonl")
        tracemalloc.start()
        run_job(ToyWork(), options_for(path, tmp_path / f"{num_rows}.gz", batch_size=16))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The reader holds up to a megabyte of the file, whatever else there is.
    assert peaks[1] < peaks[0] + (1 << 21)


# Shards


@pytest.mark.parametrize(("num_rows", "num_parts"), [(50, 1), (50, 4), (3, 8)])
def test_shards_joined_are_the_whole(write_rows, tmp_path, num_rows, num_parts):
    work, prompts = ToyWork(num_samples=2), write_rows(num_rows)
    run_job(work, options_for(prompts, tmp_path / "whole.jsonl"))
    for part in range(num_parts):
        output = tmp_path / f"part{part}.jsonl"
        run_job(work, options_for(prompts, output, shard=f"{part + 1}/{num_parts}"))
    parts = [(tmp_path / f"part{part}.jsonl").read_bytes() for part in range(num_parts)]
    assert b"".join(parts) == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(prompts, tmp_path, shard):
    with pytest.raises(ValueError, match=f"`--shard` takes i/n .* got {shard}"):
        run_job(ToyWork(), options_for(prompts, tmp_path / "out.jsonl", shard=shard))


def test_options_without_effect_are_refused(prompts, tmp_path):
    for options, message in (
        ({"start_over": True}, "`--start_over` has no effect"),
        ({"on_error": "reject"}, "`--on_error reject` needs `--output FILE`"),
        ({"batch_size": 0}, "`--batch_size` must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run_job(ToyWork(), JobOptions(prompts, **options))
    with pytest.raises(ValueError, match="`--columns` has no effect without `--prompts`"):
        run_job(ToyWork(), JobOptions(columns=("a",)))


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


# A job that is begun again


class BreaksOff(ToyWork):
    """Fails at its tenth batch."""

    num_batches = 0

    def run(self, batch):
        self.num_batches += 1
        if self.num_batches == 10:
            raise KeyboardInterrupt
        return super().run(batch)


@pytest.fixture
def broken_off(prompts, tmp_path):
    """Leave a job of which one chunk of 16 rows is done; return its options."""
    options = options_for(prompts, tmp_path / "out.jsonl")
    with pytest.raises(KeyboardInterrupt) as caught:
        run_job(BreaksOff(), options)
    assert caught.value.__notes__ == [
        f"`{tmp_path / 'out.jsonl.partial'}` holds the 16 rows written until then; the same "
        "command goes on behind them."
    ]
    return options


def test_another_model_other_prompts_or_options_are_refused(broken_off, prompts, tmp_path):
    columns = JobOptions(**vars(broken_off) | {"columns": ("source",)})
    for work, options, name in (
        (ToyWork(name="other"), broken_off, "name"),
        (ToyWork(num_samples=2), broken_off, "num_samples"),
        (ToyWork(), columns, "columns"),
    ):
        with pytest.raises(ValueError, match=f"holds 16 rows of a job that differs in `{name}`"):
            run_job(work, options)
    prompts.write_text(prompts.read_text().replace("x", "y"))
    with pytest.raises(ValueError, match="differs in `prompts`"):
        run_job(ToyWork(), broken_off)
    assert len((tmp_path / "out.jsonl.partial").read_text().splitlines()) == 16


def test_start_over_discards_what_was_done(broken_off, tmp_path):
    report = run_job(ToyWork(name="other"), JobOptions(**vars(broken_off) | {"start_over": True}))
    assert (report.num_records, report.num_earlier_records) == (50, 0)
    assert read(tmp_path / "out.jsonl") == expected_records()


def test_the_batch_size_may_change(broken_off, tmp_path):
    report = run_job(ToyWork(), JobOptions(**vars(broken_off) | {"batch_size": 5}))
    assert (report.num_records, report.num_earlier_records) == (34, 16)
    assert read(tmp_path / "out.jsonl") == expected_records()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"settings": {}, "state": {"stream": 1}}'])
def test_a_damaged_journal_is_refused(broken_off, tmp_path, content):
    (tmp_path / "out.jsonl.job.json").write_text(content)
    with pytest.raises(ValueError, match="is no journal of a job, or is damaged; `--start_over`"):
        run_job(ToyWork(), broken_off)


def test_an_output_that_has_lost_rows_is_refused(broken_off, tmp_path):
    (tmp_path / "out.jsonl.partial").write_text("")
    with pytest.raises(ValueError, match=r"is shorter than the .* bytes that"):
        run_job(ToyWork(), broken_off)
