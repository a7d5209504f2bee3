"""What a training checkpoint tells about its run: steps, time, parameters, machine."""

import os
import platform
from pathlib import Path
from typing import Any

import torch


def describe_machine() -> str:
    """Name the processor or the accelerator that this process would train on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {capability})"


def describe_run(ckpt_path: Path) -> dict[str, Any]:
    """Read steps and training time from a Lightning checkpoint.

    The time is there if the run had Lightning's ``Timer`` callback; it covers resumed runs too. The
    floating-point operations, of one process, are there if it had ``CountTrainingFLOPs``.
    """
    checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True)
    run: dict[str, Any] = {"steps": checkpoint["global_step"], "epochs": checkpoint["epoch"] + 1}
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, dict) and "time_elapsed" in state:
            run["training_seconds"] = round(state["time_elapsed"]["train"], 1)
        if isinstance(state, dict) and state.get("training_flops"):
            run["training_flops"] = state["training_flops"]
    return run


def autoencoder_checkpoint(ckpt_path: Path) -> Path | None:
    """Find the checkpoint of stage 1 that a checkpoint of stage 2 builds on, if it is there."""
    checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True)
    pretrained = checkpoint["hyper_parameters"].get("autoencoder")
    if isinstance(pretrained, dict):
        pretrained = (pretrained.get("init_args") or {}).get("path")
    path = Path(pretrained if isinstance(pretrained, str) else "")
    return path if path.suffix == ".ckpt" and path.is_file() else None


def describe_training(
    runs: dict[str, Path | None], modules: dict[str, torch.nn.Module]
) -> dict[str, Any]:
    """Describe the runs that a pipeline comes from.

    Args:
        runs: Lightning checkpoint of each run by name; ``None`` where it is gone.
        modules: Networks by name, to count their parameters.
    """
    report: dict[str, Any] = {
        "parameters": {
            name: sum(parameter.numel() for parameter in module.parameters())
            for name, module in modules.items()
        },
        "machine": describe_machine(),
    }
    return report | {name: describe_run(path) for name, path in runs.items() if path is not None}
