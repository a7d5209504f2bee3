r"""Kill a training at random moments, resume it each time, and compare it with an unbroken one.

    python tests/benchmarks/resume.py --training configs/autoencoder/e2e.yaml
    python tests/benchmarks/resume.py --training configs/denoiser/e2e.yaml --options \
        '[--model.init_args.autoencoder.init_args.path=checkpoints/e2e/autoencoder]'

Each run is the command ``ldm-text fit`` in a process of its own, with a checkpoint each few steps,
ended by SIGKILL and started again with ``--ckpt_path last``. Prints JSON: kills, the steps at which
they came, and which parts of the last checkpoints (weights, average, optimizer, schedule) differ
in any bit.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import auto_cli

PARTS = (
    "state_dict",
    "current_model_state",
    "averaging_state",
    "optimizer_states",
    "lr_schedulers",
)
# They write somewhere, or texts at a validation.
LEFT_OUT = ("LearningRateMonitor", "LogTexts", "ModelCheckpoint", "TQDMProgressBar")


def command(config: Path, folder: Path, num_steps: int, every_n_steps: int) -> list[str]:
    """Write the command line of one training, with checkpoints in ``folder``."""
    trainer = yaml.safe_load(config.read_text())["trainer"]
    callbacks = [
        callback
        for callback in trainer["callbacks"]
        if callback["class_path"].split(".")[-1] not in LEFT_OUT
    ]
    options = {"dirpath": str(folder), "every_n_train_steps": every_n_steps, "save_last": True}
    callbacks.append(
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": options | {"enable_version_counter": False},
        }
    )
    changes = {
        "max_steps": num_steps,
        "val_check_interval": num_steps,
        "logger": False,
        "callbacks": callbacks,
    }
    overlay = folder.with_suffix(".yaml")
    overlay.write_text(yaml.safe_dump({"trainer": changes}))
    script = Path(sys.executable).with_name("ldm-text")
    return [sys.executable, str(script), "fit", "-c", str(config), "-c", str(overlay)]


def stored(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint of a folder; empty where there is none."""
    path = folder / "last.ckpt"
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else {}


def differences(first: Any, second: Any, name: str) -> list[str]:
    """Name what two nested states do not have in common, bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [d for key in first for d in differences(first[key], second[key], f"{name}/{key}")]
    if isinstance(first, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}/{i}")]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [name]


def resume(
    training: Path,
    num_steps: int = 40,
    num_kills: int = 4,
    every_n_steps: int = 5,
    longest_life_s: float = 60.0,
    seed: int = 0,
    options: tuple[str, ...] = (),
) -> None:
    """Train once unbroken and once with kills, and compare.

    Args:
        training: Configuration of a training, as it is shipped.
        num_steps: Steps of the training.
        num_kills: How often to kill it at most.
        every_n_steps: Steps between checkpoints.
        longest_life_s: Each life but the last has a random length of up to so many seconds.
        seed: Seed of the moments.
        options: Further options of ``ldm-text fit``.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        unbroken, broken = Path(name, "unbroken"), Path(name, "broken")
        steps = (num_steps, every_n_steps)
        arguments = [*command(training, unbroken, *steps), *options]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        kills: list[int] = []
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            arguments = [*command(training, broken, *steps), *options, "--ckpt_path", "last"]
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
            if len(kills) < num_kills:
                end_s = time.monotonic() + draw.uniform(0, longest_life_s)
                while process.poll() is None and time.monotonic() < end_s:
                    time.sleep(0.05)
                process.kill()
            code = process.wait()
            if code == -signal.SIGKILL:
                kills.append(stored(broken).get("global_step", 0))
        first, second = stored(unbroken), stored(broken)
    differing = [
        difference
        for part in PARTS
        for difference in differences(first.get(part), second.get(part), part)
    ]
    report = {
        "training": str(training),
        "steps": [first["global_step"], second["global_step"]],
        "kills": len(kills),
        "checkpoint_at_kill": kills,
        "exit_code": code,
        "differences": differing,
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    auto_cli(resume, as_positional=False)
