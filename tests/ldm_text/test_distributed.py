"""Two processes, started by torchrun and joined by gloo, train what one process trains."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from autoencoder import TextAutoencoder

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parent  # for the callback of `run_commands`
CONFIGS = ROOT / "configs"
# Linear in the gradients: a difference in their last bit stays one in the weights.
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.5}}
NO_NOISE = {"max_token_mask_prob": 0.0, "corruption": {"init_args": {"max_noise_ratio": 0.0}}}
STAGES = {
    "autoencoder": ("autoencoder", "e2e", {}),
    "denoiser": ("denoiser", "e2e", {"cache_latents": True, "latent_cache_dir": "latents"}),
    "masked": ("baselines", "e2e_masked", {}),
    "plain autoencoder": ("autoencoder", "e2e", NO_NOISE),
    "autoregressive": ("baselines", "e2e_autoregressive", {"cond_drop_prob": 0.0}),
}
IN_TURNS = ("autoencoder", "denoiser", "masked")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen rows that fill their length, so that each has the same share in a loss."""
    folder = tmp_path_factory.mktemp("distributed")
    words = ["The", "Vaults", "is", "a", "nice", "pub", "near", "the", "river", "and", "Mill"]
    draw = random.Random(0)
    rows = [
        {name: " ".join(draw.choices(words, k=20)) for name in ("source", "target")}
        for _ in range(16)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def command(folder, toy_tokenizer_folder):
    """Return the arguments that train a stage for six steps of four rows in all."""

    def make(stage, name, batch_size, trainer):
        kind, config, model = STAGES[stage]
        data = {
            "corpus": {"init_args": {"train": "data.jsonl", "validation": "data.jsonl"}},
            "tokenizer": str(toy_tokenizer_folder),
            "long_texts": "truncate",
            "max_length_tokens": 16,
            "max_source_length_tokens": 16,
            "batch_size": batch_size,
            "cache_dir": "cache",
        }
        if kind == "denoiser":
            model = model | {"autoencoder": {"init_args": {"path": "autoencoder"}}}
        checkpoints = {"dirpath": name, "save_last": True, "enable_version_counter": False}
        options = {
            "max_steps": 6,
            "val_check_interval": 3,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "plugins": [],
            "callbacks": [
                {"class_path": "denoiser.EMAWithWarmup"},
                {"class_path": "ldm_text.training_guards.StopOnNonFiniteLoss"},
                {"class_path": "ldm_text.training_health.LogTrainingHealth"},
                {"class_path": "ldm_text.training_flops.CountTrainingFLOPs"},
                {
                    "class_path": "ldm_text.callbacks.LogTexts",
                    "init_args": {"num_rows": 2, "num_inference_steps": 2},
                },
                {
                    "class_path": "ldm_text.log_diagnostics.LogDiagnostics",
                    "init_args": {"num_texts": 2},
                },
                {"class_path": "run_commands.RecordShares", "init_args": {"path": f"{name}.json"}},
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": checkpoints | {"every_n_train_steps": 3},
                },
            ],
        }
        overlay = {
            "data": {"init_args": data},
            "model": {"init_args": {"optimizer": SGD, "warmup_steps": 0} | model},
            "trainer": options | trainer,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(overlay))
        files = [CONFIGS / kind / f"{config}.yaml", CONFIGS / kind / "tiny.yaml", path]
        return ["fit", *(str(part) for file in files for part in ("-c", file))]

    return make


@pytest.fixture(scope="module")
def together(folder, command, toy_tokenizer):
    """Train every stage in two processes."""
    sizes = {"latent_dim": 8, "token_dim": 16, "hidden_dim": 32, "num_heads": 2}
    torch.manual_seed(0)
    autoencoder = TextAutoencoder(len(toy_tokenizer), **sizes)
    autoencoder.save_pretrained(folder / "autoencoder")
    trainer = {"strategy": "ddp", "devices": 2}
    commands = [command(stage, f"{stage} by two", 2, trainer) for stage in STAGES]
    trainer = {"strategy": "fully_sharded", "devices": 2}
    commands += [command(stage, f"{stage} sharded", 2, trainer) for stage in IN_TURNS]
    for stage in IN_TURNS:
        name = f"{stage} sharded and resumed"
        commands.append(command(stage, name, 2, trainer | {"max_steps": 3}))
        commands.append([*command(stage, name, 2, trainer), f"--ckpt_path={name}/last.ckpt"])
    (folder / "commands.json").write_text(json.dumps(commands))
    script = Path(__file__).with_name("run_commands.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ran = subprocess.run(
        [*launcher, str(script), "commands.json"],
        cwd=folder,
        env=os.environ | {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-9000:]


def weights(folder, name):
    content = torch.load(folder / name / "last.ckpt", weights_only=True)
    assert content["global_step"] == 6
    return content["current_model_state"] | {
        f"average of {key}": value for key, value in content["state_dict"].items()
    }


@pytest.fixture
def train_alone(folder, command, call_main, monkeypatch, together):
    """Train a stage in one process; return its weights beside those of two processes."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(TESTS)

    def run(stage, name, batch_size, trainer):
        trainer = trainer | {"devices": 1}
        assert call_main(*command(stage, name, batch_size, trainer)) == 0
        return weights(folder, name), weights(folder, f"{stage} by two")

    return run


def assert_equal_but_for_rounding(first, second):
    assert first.keys() == second.keys()
    for name in first:
        expected = second[name]
        assert torch.allclose(first[name], expected, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("stage", IN_TURNS)
def test_two_processes_equal_one_that_takes_their_batches_in_turns(stage, train_alone):
    """Masks, noise and times included: a batch draws the same numbers wherever it is taken."""
    in_turns = {"accumulate_grad_batches": 2, "val_check_interval": 6}
    alone, by_two = train_alone(stage, f"{stage} alone", 2, in_turns)
    assert_equal_but_for_rounding(alone, by_two)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in IN_TURNS])
def test_two_processes_equal_one_with_twice_the_batch(stage, train_alone):
    """Without random numbers, which are drawn for a whole batch, and with texts of one length."""
    alone, by_two = train_alone(stage, f"{stage} alone", 4, {})
    assert_equal_but_for_rounding(alone, by_two)


def test_processes_that_lightning_starts_train_like_those_of_torchrun(folder, command, together):
    """Then the module refers to them, and cannot be copied whole for its average."""
    trainer = {"strategy": "ddp", "devices": 2}
    script = Path(sys.executable).with_name("ldm-text")
    arguments = command("denoiser", "denoiser by itself", 2, trainer)
    ran = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env=os.environ
        | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-9000:]
    first, second = weights(folder, "denoiser by itself"), weights(folder, "denoiser by two")
    assert_equal_but_for_rounding(first, second)


@pytest.mark.parametrize("stage", IN_TURNS)
def test_a_process_holds_half_of_sharded_weights_and_of_their_momentum(stage, folder, together):
    whole, sharded = (
        json.loads((folder / f"{stage} {name}.json").read_text()) for name in ("by two", "sharded")
    )
    assert whole == {"weights": 1.0, "optimizer": 1.0}
    assert sharded == {name: pytest.approx(0.5, abs=0.02) for name in whole}


@pytest.mark.parametrize("name", ["sharded", "sharded and resumed"])
@pytest.mark.parametrize("stage", IN_TURNS)
def test_sharded_weights_become_what_whole_ones_become(stage, name, folder, together):
    """Averages included; the checkpoint is one file of whole weights, and can be resumed."""
    sharded = weights(folder, f"{stage} {name}")
    assert_equal_but_for_rounding(sharded, weights(folder, f"{stage} by two"))


def test_processes_share_one_latent_cache_which_a_second_run_finds_whole(
    folder, train_alone, monkeypatch
):
    [cache] = (folder / "latents").iterdir()
    content = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert sorted(content) == ["filled.npy", "input.npy", "source.npy"]
    assert np.load(cache / "filled.npy").tolist() == [1] * 8
    monkeypatch.setattr("denoiser.training.LitDenoiser.encode_columns", None)
    train_alone("denoiser", "denoiser again", 2, {"accumulate_grad_batches": 2})
    assert content == {path.name: path.read_bytes() for path in cache.iterdir()}
