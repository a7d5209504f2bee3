"""Jobs as a Ray Data pipeline, on a cluster of this machine."""

import sys
from functools import partial
from pathlib import Path

import pytest

from ldm_text.batch.job import run_job
from ldm_text.batch.ray import run_job_on_ray
from tests.ldm_text.batch.toy_work import ToyWork, options_for, run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100_000_000)
        yield
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_two_workers_write_the_file_of_one_process(cluster, prompts, tmp_path, name):
    lines = prompts.read_text().splitlines()
    lines[3] = "{"
    prompts.write_text("\n".join(lines))
    load = partial(ToyWork, num_samples=3)
    report = run_job_on_ray(load, options_for(prompts, tmp_path / name, on_error="reject"), 2)
    assert (report.num_records, report.num_rejects) == (147, 1)
    whole = tmp_path / f"whole_{name}"
    run_job(load(), options_for(prompts, whole, on_error="reject"))
    assert (tmp_path / name).read_bytes() == whole.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_job_of_one_process_is_gone_on_with_on_ray(cluster, prompts, tmp_path):
    options = options_for(prompts, tmp_path / "out.jsonl")
    assert run(options, kill_at=25) < 0
    report = run_job_on_ray(ToyWork, options, 2)
    assert report.num_earlier_records > 0
    run_job(ToyWork(), options_for(prompts, tmp_path / "whole.jsonl"))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_without_ray_the_way_to_it_is_told(prompts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ValueError, match=r"`--ray_workers` needs Ray: pip install 'ldm-text\[ray\]'"
    ):
        run_job_on_ray(ToyWork, options_for(prompts, tmp_path / "out.jsonl"), 2)


@pytest.mark.parametrize(("workers", "output"), [(0, "out.jsonl"), (2, "-")])
def test_options_that_do_not_do_are_refused(prompts, tmp_path, workers, output):
    output = output if output == "-" else tmp_path / output
    with pytest.raises(ValueError, match="`--ray_workers`"):
        run_job_on_ray(ToyWork, options_for(prompts, output), workers)
