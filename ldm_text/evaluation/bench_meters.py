"""What ``ldm-text bench`` measures beside the time of a whole call: parts, operations, memory."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ldm_text.flop_counting import flop_counter
from ldm_text.loading import TextPipeline
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.precision import Precision, resolve_precision

# Methods of a latent pipeline that a part of a call runs in; what is left of it is denoising.
PARTS = {
    "tokenize": "tokenize_prompts",
    "condition": "encode_prompts",
    "decode": "decode_latents",
    "detokenize": "texts_of",
}
COLD_START = """
import sys, time
from pathlib import Path
from ldm_text.loading import load_pipeline

pipeline = load_pipeline(Path(sys.argv[1]))
if sys.argv[2] == "compiled":
    pipeline.compile([1])
for _ in range(2):
    start = time.perf_counter()
    pipeline.generate([None])
    print(time.perf_counter() - start)
"""
MIB = 2**20


def synchronized_clock(device: torch.device) -> Callable[[], float]:
    """Make a clock that waits until the device has done its work."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class CallMeter:
    """Measure the parts of calls of ``generate``, and the network in them.

    Args:
        pipeline: The generator.

    Attributes:
        part_seconds: Seconds in the methods of ``PARTS`` since the last ``reset``.
        network_seconds: Seconds in the network that runs once a step.
        network_flops: Floating-point operations of matrix products in it, if they are counted.
    """

    def __init__(self, pipeline: TextPipeline) -> None:
        self.pipeline = pipeline
        self.now = synchronized_clock(pipeline.device)
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self.part_seconds = dict.fromkeys(PARTS, 0.0)
        self.network_seconds = 0.0
        self.network_flops = 0

    @contextmanager
    def measuring(self, count_flops: bool = False) -> Iterator[None]:
        """Measure the calls that are made in this context.

        Args:
            count_flops: Count the operations of the network, which makes it slower.
        """
        self.reset()
        network, started, counters = self.pipeline.network, [0.0], ExitStack()
        counter = flop_counter()
        # The counter cannot look into compiled code.
        stance = torch.compiler.set_stance("force_eager") if count_flops else nullcontext()

        def before(*_: Any) -> None:
            if count_flops:
                counters.enter_context(counter)
            started[0] = self.now()

        def after(*_: Any) -> None:
            self.network_seconds += self.now() - started[0]
            if count_flops:
                counters.close()
                self.network_flops += counter.get_total_flops()

        hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
        is_latent = isinstance(self.pipeline, LatentTextPipeline)
        for part, method in PARTS.items() if is_latent else ():
            setattr(self.pipeline, method, self.timed(part, getattr(self.pipeline, method)))
        try:
            with stance:
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for method in PARTS.values() if is_latent else ():
                delattr(self.pipeline, method)  # that of the class shows again

    def timed(self, part: str, method: Callable) -> Callable:
        """Wrap a method so that its time is noted."""

        def run(*arguments: Any, **options: Any) -> Any:
            start = self.now()
            result = method(*arguments, **options)
            self.part_seconds[part] += self.now() - start
            return result

        return run

    def parts_of(self, seconds: float) -> dict[str, float] | None:
        """Split the seconds of one call by part; ``None`` for a pipeline without such parts."""
        if not isinstance(self.pipeline, LatentTextPipeline):
            return None
        parts = dict(self.part_seconds)
        parts["condition"] -= parts["tokenize"]  # which it calls
        parts["denoise"] = seconds - sum(parts.values())
        return {name: parts[name] for name in PARTS_IN_ORDER}


PARTS_IN_ORDER = ("tokenize", "condition", "denoise", "decode", "detokenize")


def matrix_product_peak(
    device: torch.device, precision: Precision, size: int = 2048, num_repeats: int = 5
) -> float:
    """Measure how many operations a second square matrix products reach, the best of some."""
    now, seconds = synchronized_clock(device), []
    is_bfloat16 = resolve_precision(precision, device) == "bfloat16"
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    # Of this type already: autocast would cast both factors within the time of each product.
    first, second = torch.randn(2, size, size, device=device, dtype=dtype)
    for _ in range(num_repeats + 1):  # the first one warms up
        start = now()
        first @ second
        seconds.append(now() - start)
    return 2 * size**3 / min(seconds[1:])


def resident_memory(field: str) -> int | None:
    """Read ``VmRSS``, or its peak ``VmHWM``, of this process in bytes; ``None`` if not on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 if found else None


def peak_memory(device: torch.device, call: Callable[[], Any]) -> float | None:
    """Run a call and measure the memory that it takes on top of what is taken before.

    Args:
        device: Where the call computes: memory of the accelerator, else of the process.
        call: What is run.

    Returns:
        MiB; ``None`` where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    give_back_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        return None
    start = resident_memory("VmRSS")
    call()
    peak = resident_memory("VmHWM")
    return None if start is None or peak is None else max(0, peak - start) / MIB


def give_back_freed_memory() -> None:
    """Let the allocator return what is free, or a call could take it without being noticed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class ColdStart:
    """A fresh process.

    Attributes:
        seconds: From its start until it has loaded a pipeline and written a text.
        compile_seconds: What the first text of a compiled pipeline took longer than the second one,
            a part of ``seconds``; ``None`` of one that is not compiled.
    """

    seconds: float
    compile_seconds: float | None


def cold_start(folder: Path, num_starts: int, is_compiled: bool = False) -> ColdStart | None:
    """Time a fresh process until its first text; nothing is compiled yet.

    Args:
        folder: Folder of the pipeline.
        num_starts: How often; medians count. 0 leaves it out.
        is_compiled: Compile the pipeline.

    Raises:
        RuntimeError: If the process fails.
    """
    command = [sys.executable, "-c", COLD_START, str(folder), "compiled" if is_compiled else ""]
    seconds, compile_seconds = [], []
    for _ in range(num_starts):
        with TemporaryDirectory() as cache:  # not the one of all processes
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            total = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"`{folder}` wrote no text in a fresh process: {done.stderr[-500:]}")
        first, second = map(float, done.stdout.split())
        seconds.append(total - second)
        compile_seconds.append(first - second)
    if not seconds:
        return None
    return ColdStart(median(seconds), median(compile_seconds) if is_compiled else None)
