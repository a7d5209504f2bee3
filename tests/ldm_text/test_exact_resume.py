"""A training that is killed and resumed ends with the bits of one that is not; see README."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from autoencoder.training import LitAutoencoder
from denoiser.training import LitDenoiser
from ldm_text.baselines.training import LitTokenModel

CONFIGS = Path(__file__).parents[2] / "configs"
STAGES = {
    "autoencoder": (LitAutoencoder, ["autoencoder/e2e", "autoencoder/tiny"], 4),
    "denoiser": (LitDenoiser, ["denoiser/e2e", "denoiser/tiny"], 2),
    "baseline": (LitTokenModel, ["baselines/e2e_masked", "baselines/tiny"], 2),
}
# A run resumed in its own folder finds its own checkpoints there.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")


class KilledError(Exception):
    """Stands for a kill: nothing in the command line catches it."""


@pytest.fixture
def folder(tmp_path, monkeypatch, toy_tokenizer, make_autoencoder):
    """A folder with seven rows, of which an epoch has three batches, and an autoencoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path / "cache"))
    words = ["The", "Vaults", "is", "a", "nice", "pub", "near", "the", "river", "and", "Mill"]
    draw = random.Random(0)
    rows = [
        {name: " ".join(draw.choices(words, k=20)) for name in ("source", "target")}
        for _ in range(7)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_autoencoder(vocab_size=len(toy_tokenizer)).save_pretrained("autoencoder")
    return tmp_path


@pytest.fixture
def train(folder, call_main, toy_tokenizer_folder, monkeypatch):
    """Train seven steps, save each ``save_every`` of them and validate each second one.

    Before step ``kill_at``, counted from 0, comes a kill; at step ``nan_at`` the loss is lost.
    """

    def run(stage, name, *options, kill_at=None, nan_at=None, save_every=1):
        module_class, configs, batch_size = STAGES[stage]
        training_step = module_class.training_step

        def step(self, batch, batch_idx):
            if self.global_step == kill_at:
                raise KilledError
            loss = training_step(self, batch, batch_idx)
            if self.global_step == nan_at:
                return {"loss": (loss["loss"] if isinstance(loss, dict) else loss) * torch.nan}
            return loss

        checkpoints = {"dirpath": name, "save_last": True, "every_n_train_steps": save_every}
        trainer = {
            "max_steps": 7,
            "val_check_interval": 2,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {"class_path": "denoiser.EMAWithWarmup"},
                {"class_path": "ldm_text.training_guards.StopOnNonFiniteLoss"},
                {
                    "class_path": "ldm_text.callbacks.LogTexts",
                    "init_args": {"num_rows": 2, "num_inference_steps": 2},
                },
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": checkpoints | {"enable_version_counter": False},
                },
            ],
        }
        (folder / "overlay.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
        data = {
            "corpus.init_args.train": "data.jsonl",
            "corpus.init_args.validation": "data.jsonl",
            "tokenizer": toy_tokenizer_folder,
            "long_texts": "truncate",
            "max_length_tokens": 16,
            "max_source_length_tokens": 16,
            "batch_size": batch_size,
        }
        options = [*options, *(f"--data.init_args.{key}={value}" for key, value in data.items())]
        if stage == "denoiser":
            options.append("--model.init_args.autoencoder.init_args.path=autoencoder")
        files = [*(CONFIGS / f"{config}.yaml" for config in configs), folder / "overlay.yaml"]
        monkeypatch.setattr(module_class, "training_step", step)
        try:
            return call_main("fit", *(part for file in files for part in ("-c", file)), *options)
        finally:
            monkeypatch.setattr(module_class, "training_step", training_step)

    return run


def load(path):
    return torch.load(path, weights_only=True)


def differences(first, second, name=""):
    """Name what two nested states do not have in common, bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [d for key in first for d in differences(first[key], second[key], f"{name}/{key}")]
    if isinstance(first, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}/{i}")]
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    return [] if first == second else [name]


STATE = (
    "state_dict",
    "current_model_state",
    "averaging_state",
    "optimizer_states",
    "lr_schedulers",
)


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_killed_twice_ends_like_an_unbroken_one(stage, train):
    """The first kill is in the middle of an epoch, the second at an end, before a validation.

    Without a state of its own the data loader shuffled the broken epoch anew, random numbers began
    anew, the latent cache gave some rows unrounded, and the statistics missed a validation.
    """
    assert train(stage, "unbroken") == 0
    with pytest.raises(KilledError):
        train(stage, "killed", kill_at=4)
    place = load("killed/last.ckpt")["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert place == [{"epoch": 1, "num_batches_given": 1}]
    with pytest.raises(KilledError):
        train(stage, "killed", "--ckpt_path=killed/last.ckpt", kill_at=6)
    assert load("killed/last.ckpt")["global_step"] == 6
    assert train(stage, "killed", "--ckpt_path=killed/last.ckpt") == 0
    unbroken, killed = load("unbroken/last.ckpt"), load("killed/last.ckpt")
    assert unbroken["global_step"] == killed["global_step"] == 7
    assert unbroken["averaging_state"]["n_averaged"] == 7
    assert not differences(*({name: run[name] for name in STATE} for run in (unbroken, killed)))
    assert not Path("killed/last.ckpt.partial").exists()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("num_steps", [5, 6])
def test_a_training_goes_on_from_a_last_step_that_no_interval_meets(stage, num_steps, train):
    """The end of the training was lost: the last checkpoint was that of the interval before it.

    Step 6 ends an epoch and is validated, step 5 is neither.
    """
    constant = "--model.init_args.lr_schedule=constant_with_warmup"
    assert train(stage, "unbroken", constant) == 0
    first = [constant, f"--trainer.max_steps={num_steps}"]
    assert train(stage, "run", *first, save_every=4) == 0
    assert load("run/last.ckpt")["global_step"] == num_steps
    assert train(stage, "run", constant, "--ckpt_path=run/last.ckpt", save_every=4) == 0
    unbroken, run = load("unbroken/last.ckpt"), load("run/last.ckpt")
    assert unbroken["global_step"] == run["global_step"] == 7
    assert not differences(*({name: end[name] for name in STATE} for end in (unbroken, run)))


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_batch(stage, train, capsys):
    assert train(stage, "run", nan_at=2) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    path = Path("run").resolve() / "non_finite_loss_step_2.safetensors"
    assert line.startswith("ldm-text: error: The training loss of step 2 is nan: ")
    assert f"`{path}`" in line
    with safe_open(path, framework="pt") as batch:
        shape = (STAGES[stage][2], 16)
        assert batch.get_tensor("input_ids").shape == shape
        assert batch.get_tensor("attention_mask").dtype == torch.bool
        assert batch.metadata()["global_step"] == "2"
        assert batch.metadata()["loss"] == "nan"
    checkpoint = load("run/last.ckpt")
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["current_model_state"].values())


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "flipped bit": lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 4])
        + content[len(content) // 2 + 1 :]
    ),
}


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(train, capsys):
    """A flipped bit in a weight loaded without a word; a cut file was the end of the run."""
    stage = "autoencoder"
    assert train(stage, "unbroken") == 0
    with pytest.raises(KilledError):
        train(stage, "run", kill_at=4)
    newest = ["epoch=1-step=4.ckpt", "last.ckpt"]
    assert sorted(path.name for path in Path("run").iterdir()) == [*newest, "last.previous.ckpt"]
    assert load("run/last.previous.ckpt")["global_step"] == 3
    shutil.copytree("run", "kept")
    options = ["--ckpt_path=run", "--ckpt_path=last", "--ckpt_path=run"]
    for damage, option in zip(DAMAGE.values(), options, strict=True):
        shutil.rmtree("run")
        shutil.copytree("kept", "run")
        for path in (Path("run", name) for name in newest):
            path.write_bytes(damage(path.read_bytes()))
        capsys.readouterr()
        assert train(stage, "run", "--ckpt_path=run/last.ckpt") == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "`run/last.ckpt` is damaged" in line
        assert "Name its folder, `run`, to go on" in line
        assert train(stage, "run", option) == 0
        lines = capsys.readouterr().err
        assert lines.count("is damaged") == 2
        assert "last.previous.ckpt, step 3." in lines
        ends = (load(f"{name}/last.ckpt") for name in ("unbroken", "run"))
        assert not differences(*({name: run[name] for name in STATE} for run in ends))


def test_without_a_whole_checkpoint_a_folder_is_refused_and_last_begins_anew(train, capsys):
    with pytest.warns(UserWarning, match="there is no last checkpoint available"):
        assert train("autoencoder", "run", "--ckpt_path=last", "--trainer.max_steps=1") == 0
    assert load("run/last.ckpt")["global_step"] == 1
    for path in Path("run").iterdir():
        path.write_bytes(b"")
    for option in ("--ckpt_path=run", "--ckpt_path=last"):
        assert train("autoencoder", "run", option) == 2
        assert "there is no whole checkpoint in `" in capsys.readouterr().err.splitlines()[-1]
