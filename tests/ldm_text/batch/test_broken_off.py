"""Whatever moment a job ends at, the same command leads to the file of an unbroken run."""

import json
import os
import random
import signal
import time

import pytest

from ldm_text.batch.job import EXIT_CODE_REJECTS, run_job
from tests.ldm_text.batch.toy_work import ToyWork, options_for, run, start

NAMES = ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet"]


@pytest.fixture
def unbroken(tmp_path):
    """Return the bytes of an unbroken run."""

    def make(name, **options):
        folder = tmp_path / "unbroken"
        folder.mkdir(exist_ok=True)
        run_job(ToyWork(), options_for(tmp_path / "prompts.jsonl", folder / name, **options))
        return (folder / name).read_bytes()

    return make


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_operation_on_a_file_it_goes_on(unbroken, write_rows, folder, name, step):
    options = options_for(write_rows(20), folder / name, batch_size=1)
    expected = unbroken(name)
    for number in range(0, 1000, step):
        code = run(options, kill_at=number)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert run(options) == 0
        assert (folder / name).read_bytes() == expected
        assert files(folder) == [name]
        (folder / name).unlink()
    assert number > 20  # of them three commits


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments_it_comes_to_the_same_end(unbroken, prompts, folder, name):
    options = options_for(prompts, folder / name)
    work = ToyWork(seconds_a_batch=0.02)  # longer than the first life, on any machine
    random_numbers = random.Random(name)
    num_kills = 0
    while True:
        process = start(options, work=work)
        # Longer and longer lives: on a busy machine a short one may not reach the first commit.
        process.join(random_numbers.uniform(0, 0.05 + 0.05 * num_kills))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        num_kills += 1
    assert process.exitcode == 0
    assert num_kills > 0
    assert (folder / name).read_bytes() == unbroken(name)
    assert files(folder) == [name]


def test_every_kill_at_a_commit_goes_on_behind_whole_rows(unbroken, prompts, folder):
    """A job that is killed again and again still gets on: no commit is lost."""
    options = options_for(prompts, folder / "out.jsonl")
    for _ in range(100):
        if run(options, kill_at=14) == 0:
            break
        journal = folder / "out.jsonl.job.json"
        if journal.exists():
            state = json.loads(journal.read_text())["state"]
            lines = (folder / "out.jsonl.partial").read_bytes()[: state["num_bytes"]].splitlines()
            assert [json.loads(line)["id"] for line in lines] == list(range(state["num_records"]))
    assert (folder / "out.jsonl").read_bytes() == unbroken("out.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_ends_a_job_that_can_be_gone_on_with(unbroken, prompts, folder, name):
    options = options_for(prompts, folder / name)
    expected = unbroken(name)
    for share in (0.3, 0.8):
        assert run(options, max_file_bytes=int(share * len(expected))) == 1
        assert not (folder / name).exists()
    assert run(options) == 0
    assert (folder / name).read_bytes() == expected
    assert files(folder) == [name]


def test_rejects_are_told_once_however_often_a_job_is_killed(prompts, folder):
    lines = prompts.read_text().splitlines()
    for number in (3, 17, 40):
        lines[number] = f"broken {number}"
    prompts.write_text("\n".join(lines))
    options = options_for(prompts, folder / "out.jsonl", on_error="reject")
    number = 0
    while (code := run(options, kill_at=8 + 5 * number)) == -signal.SIGKILL:
        number += 1
    assert code == EXIT_CODE_REJECTS
    assert number > 2
    rejects = read(folder / "out.jsonl.rejects.jsonl")
    assert [(row["id"], row["line"]) for row in rejects] == [(3, 4), (17, 18), (40, 41)]
    written = [row["id"] for row in read(folder / "out.jsonl")]
    assert written == [row for row in range(50) if row not in (3, 17, 40)]
    assert files(folder) == ["out.jsonl", "out.jsonl.rejects.jsonl"]


def test_a_pipe_is_gone_on_with_if_it_brings_the_same_rows(unbroken, prompts, folder, write_rows):
    options = options_for("-", folder / "out.jsonl")
    work = ToyWork(num_samples=3)
    assert run(options, work=work, stdin=prompts, kill_at=20) == -signal.SIGKILL
    other = write_rows(50, "other.jsonl")
    other.write_text(other.read_text().replace("x", "y"))
    assert run(options, work=work, stdin=other) not in (0, -signal.SIGKILL)
    assert run(options, work=work, stdin=write_rows(2, "short.jsonl")) not in (0, -signal.SIGKILL)
    assert run(options, work=work, stdin=prompts) == 0
    whole = folder / "whole.jsonl"
    run_job(work, options_for(prompts, whole))
    assert (folder / "out.jsonl").read_bytes() == whole.read_bytes()


def test_two_processes_do_not_write_one_file(prompts, folder):
    options = options_for(prompts, folder / "out.jsonl")
    first = start(options, work=ToyWork(seconds_a_batch=0.5))
    while not (folder / "out.jsonl.job.json").exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match="another process is writing"):
        run_job(ToyWork(), options)
    first.kill()
    first.join()
    run_job(ToyWork(), options)
    assert files(folder) == ["out.jsonl"]
