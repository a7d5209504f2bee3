"""The bench on real pipelines of toy size."""

import json
from statistics import median

import pytest
import yaml

from ldm_text.baselines import AutoregressiveModel, MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.evaluation.bench import BenchEntry
from ldm_text.evaluation.bench_meters import (
    PARTS_IN_ORDER,
    CallMeter,
    cold_start,
)
from ldm_text.evaluation.bench_report import growth_with, growth_with_calls
from ldm_text.evaluation.sweep_options import SweepPoint
from ldm_text.evaluation.timing import Stopwatch

SIZES = {"hidden_dim": 32, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def make_token_pipeline(toy_tokenizer, activate):
    def make(model_class):
        model = activate(model_class(len(toy_tokenizer), **SIZES)).eval()
        return TokenPipeline(toy_tokenizer, model, 16, 24)

    return make


@pytest.fixture
def folders(make_pipeline, make_token_pipeline, tmp_path):
    """Folders of a latent pipeline and of two baselines."""
    make_pipeline().save_pretrained(tmp_path / "latent")
    make_token_pipeline(AutoregressiveModel).save_pretrained(tmp_path / "autoregressive")
    make_token_pipeline(MaskedDiffusionModel).save_pretrained(tmp_path / "masked")
    return tmp_path


def options(folders, **changes):
    generators = [
        {
            "name": "latent",
            "pipeline": str(folders / "latent"),
            "sweeps": [{"num_inference_steps": [2, 4]}],
        },
        {"name": "autoregressive", "pipeline": str(folders / "autoregressive")},
        {"name": "masked", "pipeline": str(folders / "masked")},
    ]
    values = {
        "generators": json.dumps(generators),
        "output": folders / "bench.json",
        "batch_sizes": "[1,3]",
        "num_repeats": 2,
        "num_cold_starts": 0,
        "precision": "float32",
    }
    return [part for name, value in (values | changes).items() for part in (f"--{name}", value)]


def test_each_setting_is_timed_at_each_batch_size(main, folders):
    code, printed, error = main("bench", *options(folders))
    assert code == 0, error
    result = json.loads((folders / "bench.json").read_text())
    rows = result["rows"]
    assert [(row["generator"], row["num_inference_steps"], row["batch_size"]) for row in rows] == [
        *(("latent", steps, size) for steps in (2, 4) for size in (1, 3)),
        *(("autoregressive", None, size) for size in (1, 3)),
        *(("masked", 16, size) for size in (1, 3)),
    ]
    for row in rows:
        assert 0 < row["seconds_to_first_text"] <= row["seconds"]
        assert 0 < row["network_seconds"] < row["seconds"]
        assert row["tokens_per_second"] > 0
        assert 0 < row["share_of_matrix_product_peak"] < 1
        assert ("parts" in row) is (row["generator"] == "latent")
    for row in rows[:4]:
        assert tuple(row["parts"]) == PARTS_IN_ORDER
        assert min(row["parts"].values()) > 0
        assert row["network_calls"] == row["num_inference_steps"]
        # Medians of two calls are means, and parts of a call sum to the whole.
        assert sum(row["parts"].values()) == pytest.approx(row["seconds"], rel=1e-6)
    assert rows[2]["network_flops"] == 2 * rows[0]["network_flops"]
    assert rows[1]["network_flops"] > 2 * rows[0]["network_flops"]
    assert [fit["batch_size"] for fit in result["growth_with_calls"]] == [1, 3]
    assert len(result["growth_with_batch"]) == 4
    assert result["cold_start_seconds"] == dict.fromkeys(["latent", "autoregressive", "masked"])
    lines = printed.splitlines()
    assert lines[0].split()[:6] == ["generator", "batch", "length", "seconds", "first", "tokens/s"]
    assert len(lines) == 1 + len(rows)
    assert lines[1].startswith("latent (2 steps")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": "[]"}, "`--batch_sizes` must be 1 or larger, got []"),
        ({"batch_sizes": "[1,3,1]"}, "`--batch_sizes` must hold each value once, got [1, 3, 1]"),
        ({"lengths": "[8,8]"}, "`--lengths` must hold each value once, got [8, 8]"),
        ({"num_repeats": 0}, "`--num_repeats` must be at least 1, got 0"),
        ({"num_cold_starts": -1}, "`--num_cold_starts` must be 0 or larger, got -1"),
        ({"output": "no/folder/bench.json"}, "`--output`: there is no folder `no/folder`"),
        ({"data": "none.jsonl"}, "`--data`: "),
    ],
)
def test_options_out_of_range_are_refused(main, folders, changes, message):
    code, printed, error = main("bench", *options(folders, **changes))
    assert (code, printed) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_the_configuration_can_be_printed(main, folders):
    code, printed, error = main("bench", *options(folders), "--print_config")
    assert (code, error) == (0, "")
    generators = yaml.safe_load(printed)["generators"]
    assert [generator["sweeps"] is None for generator in generators] == [False, True, True]


def test_a_setting_that_a_pipeline_refuses_is_refused_before_the_timing(main, folders):
    generators = [
        {
            "name": "ar",
            "pipeline": str(folders / "autoregressive"),
            "sweeps": [{"guidance_scale": [2.0]}],
        }
    ]
    code, _, error = main("bench", *options(folders, generators=json.dumps(generators)))
    assert code == 2
    assert "Generator `ar`: " in error
    assert "guidance_scale" in error


def test_seeds_have_no_effect_on_what_is_timed(main, folders):
    generators = [
        {"name": "a", "pipeline": str(folders / "latent"), "sweeps": [{"seeds": [5]}]},
    ]
    code, _, error = main("bench", *options(folders, generators=json.dumps(generators)))
    assert code == 2
    assert "Generator `a`: `seeds` has no effect on what is timed" in error


def test_a_baseline_is_not_compiled(main, folders):
    generators = [{"name": "mask", "pipeline": str(folders / "masked"), "compile": True}]
    code, _, error = main("bench", *options(folders, generators=json.dumps(generators)))
    assert code == 2
    assert "Generator `mask`: `compile` is for latent pipelines" in error


def test_a_file_is_only_replaced_where_asked(main, folders):
    (folders / "bench.json").write_text("mine")
    code, _, error = main("bench", *options(folders))
    assert code == 2
    assert "is there; name another, or pass `--overwrite`" in error
    assert (folders / "bench.json").read_text() == "mine"


def test_operations_are_those_of_the_calls_that_were_timed(make_token_pipeline):
    """Those of seed 0 were divided by the seconds of others, whose texts were longer or shorter."""
    pipeline = make_token_pipeline(AutoregressiveModel)
    stopwatch = Stopwatch(pipeline, [None], SweepPoint(None, None, {}, (0,)), "float32")
    meter = CallMeter(pipeline)
    entry = BenchEntry("a", stopwatch.point, 1, stopwatch, meter)
    of_seeds = [entry.count_flops(seed) for seed in range(8)]
    assert len(set(of_seeds)) > 1
    timed = [seed for seed in range(8) if of_seeds[seed] != of_seeds[0]] * 2
    for seed in timed:
        entry.time_call(seed)
    row = entry.describe(peak=1e9)
    flops = [of_seeds[seed] for seed in timed]
    assert row["network_flops"] == median(flops)
    share = sum(flops) / sum(entry.network_seconds) / 1e9
    assert row["share_of_matrix_product_peak"] == pytest.approx(share)


def test_the_time_of_a_call_grows_linearly_with_its_calls():
    fixed = {"generator": "a", "guidance_scale": None, "sampling": {}, "batch_size": 8}
    fixed["length_tokens"] = None
    rows = [
        fixed | {"num_inference_steps": n, "network_calls": n, "seconds": 0.5 + 0.25 * n}
        for n in (2, 4, 8)
    ]
    (fit,) = growth_with_calls(rows)
    assert (fit["seconds_fixed"], fit["seconds_per_call"]) == pytest.approx((0.5, 0.25))
    assert growth_with_calls(rows[:1]) == []


def test_the_time_of_a_text_falls_with_the_batch():
    fixed = {"generator": "a", "num_inference_steps": 4, "guidance_scale": None, "sampling": {}}
    fixed["length_tokens"] = None
    rows = [fixed | {"batch_size": n, "seconds": s} for n, s in ((1, 1.0), (8, 2.0))]
    (growth,) = growth_with(rows, "batch_size", "text")
    assert growth["relative_seconds_per_text"] == {1: 1.0, 8: 0.25}


def test_the_time_of_a_token_grows_with_the_length():
    fixed = {"generator": "a", "num_inference_steps": 4, "guidance_scale": None, "sampling": {}}
    fixed["batch_size"] = 8
    rows = [fixed | {"length_tokens": n, "seconds": s} for n, s in ((32, 1.0), (64, 3.0))]
    (growth,) = growth_with(rows, "length_tokens", "token")
    assert growth["seconds_by_length_tokens"] == {32: 1.0, 64: 3.0}
    assert growth["relative_seconds_per_token"] == {32: 1.0, 64: 1.5}
    assert (
        growth_with([fixed | {"length_tokens": None, "seconds": 1.0}], "length_tokens", "token")
        == []
    )


def test_texts_of_a_length_have_exactly_so_many_tokens(main, folders):
    """The trained length is 16; the others differ from it in both directions."""
    code, printed, error = main("bench", *options(folders, lengths="[8,32]", batch_sizes="[3]"))
    assert code == 0, error
    result = json.loads((folders / "bench.json").read_text())
    found = [(row["generator"], row["length_tokens"]) for row in result["rows"]]
    assert found[:4] == [("latent", 8), ("latent", 32)] * 2  # at 2 and at 4 steps
    assert found[4:] == [(name, n) for name in ("autoregressive", "masked") for n in (8, 32)]
    for row in result["rows"]:
        calls = row["tokens_per_second"] * row["seconds"] / row["length_tokens"]
        assert calls == pytest.approx(3, rel=0.5)  # medians and sums of two calls
        if row["generator"] == "autoregressive":
            assert row["network_calls"] == row["length_tokens"]
    assert len(result["growth_with_length"]) == 4
    assert [line.split()[-7] for line in printed.splitlines()[1:3]] == ["8", "32"]


@pytest.mark.parametrize("model_class", [AutoregressiveModel, MaskedDiffusionModel, None])
def test_the_end_is_forbidden_where_texts_have_a_length(
    make_pipeline, make_token_pipeline, model_class
):
    pipeline = make_pipeline() if model_class is None else make_token_pipeline(model_class)
    point = SweepPoint(2 if model_class is not AutoregressiveModel else None, None, {}, (0,))
    stopwatch = Stopwatch(pipeline, [None], point, "float32", 24)
    assert stopwatch.time_batch(5, seed=0).num_tokens == 5 * 24
    assert pipeline.config.max_length_tokens == 16  # as it was


def test_a_length_that_a_pipeline_cannot_write_is_refused(main, folders):
    code, printed, error = main("bench", *options(folders, lengths="[7]"))
    assert (code, printed) == (2, "")
    assert "Generator `latent`: `max_length_tokens` must be a positive multiple" in error
    code, _, error = main("bench", *options(folders, lengths="[0]"))
    assert code == 2
    assert "`--lengths` must be 1 or larger, got [0]" in error


@pytest.mark.slow
def test_a_fresh_process_writes_a_text(folders, tmp_path):
    assert cold_start(folders / "masked", 0) is None
    started = cold_start(folders / "masked", 1)
    assert started.seconds > 0.5
    assert started.compile_seconds is None
    with pytest.raises(RuntimeError, match="wrote no text in a fresh process"):
        cold_start(tmp_path / "none", 1)


@pytest.mark.slow
def test_the_time_that_compiling_takes_is_told_apart(folders):
    started = cold_start(folders / "latent", 1, is_compiled=True)
    assert 0.5 < started.compile_seconds < started.seconds
