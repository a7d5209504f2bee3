"""Jobs: the formats they read and write, their batches and their shards."""

import gzip
import json
import lzma
import os
import threading
import tracemalloc

import pyarrow
import pytest
import torch
import zstandard
from pyarrow import parquet

from ldm_text.batch.job import run_job
from ldm_text.batch.options import JobOptions
from ldm_text.batch.work import Outputs
from tests.ldm_text.batch.toy_work import READ, ToyWork, expected_records, options_for, read

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


@pytest.mark.parametrize(
    "name", ["prompts.jsonl", "prompts.jsonl.partial", "prompts.jsonl.rejects.jsonl"]
)
def test_a_job_does_not_write_over_its_prompts(write_rows, tmp_path, name):
    prompts = write_rows(3, name)
    content = prompts.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path / "prompts.jsonl", tmp_path / "link" / "prompts.jsonl"):
        with pytest.raises(ValueError, match=f"`--output`: the job would write over .*{name}`"):
            run_job(ToyWork(), options_for(prompts, output, start_over=True))
    assert prompts.read_bytes() == content
    assert [path.name for path in tmp_path.glob("prompts*")] == [name]
