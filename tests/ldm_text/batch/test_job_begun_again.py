"""A job that is begun again: what may have changed since, and what is refused."""

import pytest

from ldm_text.batch.chunk_file import EncodedChunk, chunk_folder
from ldm_text.batch.chunks import read_chunks
from ldm_text.batch.job import Job, run_job
from ldm_text.batch.options import JobOptions
from tests.ldm_text.batch.toy_work import ToyWork, expected_records, options_for, read


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


class FailsAtOnce(ToyWork):
    """Fails at its first batch."""

    def run(self, batch):
        raise ValueError("wrong option.")


def test_a_job_that_has_written_nothing_can_be_changed(prompts, tmp_path):
    """A wrong option was found late, and the corrected command refused for differing from it."""
    options = options_for(prompts, tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="wrong option"):
        run_job(FailsAtOnce(name="wrong"), options)
    assert (tmp_path / "out.jsonl.job.json").exists()
    prompts.write_text(prompts.read_text() + '{"source": 1}')
    with pytest.raises(ValueError, match="line 51: no source"):  # found before the job begins
        run_job(FailsAtOnce(name="right"), options)
    prompts.write_text(prompts.read_text().replace('{"source": 1}', ""))
    report = run_job(ToyWork(name="right"), options)
    assert (report.num_records, report.num_earlier_records) == (50, 0)
    assert read(tmp_path / "out.jsonl") == expected_records()


def test_chunks_that_processes_have_left_are_not_discarded(prompts, tmp_path):
    options = options_for(prompts, tmp_path / "out.jsonl")
    job = Job(ToyWork(), options)
    with job.open_output() as file:
        folder = chunk_folder(file.path, file.job_key)
        folder.make()
        (chunk, *_) = read_chunks(job.source, job.plan(file.state.chunk_slots))
        folder.write(EncodedChunk.of(job.runner().run(chunk), file.encoding))
    with pytest.raises(ValueError, match="holds 0 rows of a job that differs in `name`"):
        run_job(ToyWork(name="other"), options)
    assert folder.path.exists()
