"""Parts, operations and memory of calls, and the peak of matrix products."""

import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_text.baselines import MaskedDiffusionModel
from ldm_text.evaluation.bench_meters import CallMeter, matrix_product_peak, peak_memory
from ldm_text.pipeline import LatentTextPipeline

CPU = torch.device("cpu")


def test_meters_leave_the_pipeline_as_it_was(make_pipeline):
    pipeline = make_pipeline()
    before = dict(vars(pipeline))
    with CallMeter(pipeline).measuring(count_flops=True):
        pipeline.generate([None], num_inference_steps=2)
    assert vars(pipeline) == before
    assert not pipeline.denoiser._forward_hooks
    assert not pipeline.denoiser._forward_pre_hooks


def test_the_time_to_tokenize_is_no_part_of_the_condition(make_pipeline, monkeypatch):
    """The method that encodes prompts calls the one that tokenizes them."""
    pipeline, seconds = make_pipeline(), [0.0]
    meter = CallMeter(pipeline)
    monkeypatch.setattr(meter, "now", lambda: seconds[0])

    def slow_down(method, own):
        run = getattr(LatentTextPipeline, method)

        def slow(*arguments, **options):
            seconds[0] += own
            return run(*arguments, **options)

        monkeypatch.setattr(LatentTextPipeline, method, slow)

    slow_down("tokenize_prompts", 1.0)
    slow_down("encode_prompts", 4.0)
    with meter.measuring():
        pipeline.generate([None], num_inference_steps=2)
    parts = meter.parts_of(seconds[0])
    assert (parts["tokenize"], parts["condition"], parts["denoise"]) == (1.0, 4.0, 0.0)


def test_the_operations_of_compiled_networks_are_counted(make_pipeline):
    pipeline, counted = make_pipeline(), []
    for _ in range(2):
        meter = CallMeter(pipeline)
        with meter.measuring(count_flops=True):
            pipeline.generate([None], num_inference_steps=2)
        counted.append(meter.network_flops)
        pipeline.compile([1], backend="eager")
    assert counted[0] == counted[1] > 0


def test_operations_are_those_of_the_matrix_products(make_token_pipeline):
    """A call of the masked model: twice the weights for each position, and attention."""
    pipeline = make_token_pipeline(model_class=MaskedDiffusionModel)
    meter = CallMeter(pipeline)
    with meter.measuring(count_flops=True):
        pipeline.generate([None], num_inference_steps=1)
    num_positions = 16 + 1  # of the text, and the end token of the empty source
    config, blocks = pipeline.token_model.config, pipeline.token_model.network.transformer.blocks
    weights = sum(weight.numel() for weight in blocks.parameters() if weight.dim() == 2)
    attention = config.num_layers * 2 * 2 * num_positions**2 * config.hidden_dim
    assert meter.network_flops == 2 * num_positions * weights + attention


def test_peak_memory_is_what_a_call_takes():
    taken = peak_memory(CPU, lambda: torch.ones(64, 2**20).sum())  # 256 MiB
    if taken is None:
        pytest.skip("the system does not tell the peak of a process's memory")
    assert 250 < taken < 400


def test_matrix_products_reach_a_peak():
    start = time.perf_counter()
    peak = matrix_product_peak(CPU, "float32", size=256, num_repeats=2)
    assert 2 * 256**3 / (time.perf_counter() - start) < peak < 1e14


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_that_of_products_alone(precision):
    """In bfloat16 two casts were a part of each product's time."""
    ran = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.mm.default:
                ran.append(str(result.dtype))
            elif ran:
                ran.append(str(function))
            return result

    with Record():
        matrix_product_peak(CPU, precision, size=32, num_repeats=2)
    assert ran == [f"torch.{precision}"] * 3
