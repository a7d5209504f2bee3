"""Jobs of several processes, started by Lightning, which speak through gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm_text.batch.job import run_job
from ldm_text.batch.predict import run_job_on_devices
from tests.ldm_text.batch.toy_work import ToyWork, options_for

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("run_toy_on_devices.py")


@pytest.fixture
def start_on_devices(prompts):
    def start(output, devices, seconds_a_batch=0.0):
        arguments = [prompts, output, devices, seconds_a_batch]
        return subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def expected(prompts, tmp_path):
    """Return the files of one process; two of the rows are bad."""
    lines = prompts.read_text().splitlines()
    lines[3] = lines[30] = "{"
    prompts.write_text("\n".join(lines))
    output = tmp_path / "whole.jsonl"
    run_job(ToyWork(num_samples=3), options_for(prompts, output, on_error="reject"))
    return [output.read_bytes(), (tmp_path / "whole.jsonl.rejects.jsonl").read_bytes()]


def written(output):
    return [output.read_bytes(), output.with_name(output.name + ".rejects.jsonl").read_bytes()]


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(start_on_devices, expected, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start_on_devices(output, 2)
    assert process.communicate()[0] == "144 behind 0\n"
    assert process.returncode == 3
    assert written(output) == expected
    assert len(list(tmp_path.glob("out*"))) == 2


@pytest.mark.slow
def test_two_processes_that_are_killed_are_gone_on_with_by_any_number(
    start_on_devices, expected, prompts, tmp_path
):
    output = tmp_path / "out.jsonl"
    process = start_on_devices(output, 2, 0.05)
    while len(list(tmp_path.glob("out.jsonl.chunks.*/?????????"))) < 3:
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    again = start_on_devices(output, 2)
    again.communicate()
    assert written(output) == expected
    assert len(list(tmp_path.glob("out*"))) == 2


def test_what_several_processes_cannot_share_is_refused(prompts):
    with pytest.raises(ValueError, match="`--devices` and `--num_nodes` need `--output FILE`"):
        run_job_on_devices(ToyWork(), options_for(prompts, "-"), devices=2)
