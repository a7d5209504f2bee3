"""What ``ldm-text fit`` says to wrong input, before it trains; see also test_end_to_end.py."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch

CONFIGS = Path(__file__).parents[2] / "configs"
CORPUS = "--data.init_args.corpus.init_args"
AUTOENCODER = "--model.init_args.autoencoder.init_args"


@pytest.fixture
def refused(main, toy_tokenizer_folder, tmp_path, monkeypatch):
    """Expect that training ends in one line and exit code 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path / "cache"))
    row = {"source": "name[The Mill]", "target": "The Vaults is a nice pub. " * 30}
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    data = [f"{CORPUS}.train=data.jsonl", f"{CORPUS}.validation=data.jsonl"]
    data += ["--data.init_args.batch_size=2", "--data.init_args.long_texts=truncate"]
    data += [f"--data.init_args.tokenizer={toy_tokenizer_folder}"]

    def run(stage, message, *options):
        files = [CONFIGS / stage / f"{name}.yaml" for name in ("e2e", "tiny")]
        code, _, error = main("fit", "-c", files[0], "-c", files[1], *data, *options)
        line = error.splitlines()[-1]
        assert code == 2
        assert line.startswith("ldm-text: error: ")
        assert message in line
        assert "Traceback" not in error
        assert not list(tmp_path.rglob("*.ckpt"))

    return run


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (f"{CORPUS}.train=nowhere.jsonl", "No such file or folder: nowhere.jsonl."),
        (f"{CORPUS}.validation=excerpt:x", "No excerpt 'x'; there are e2e_train, "),
        (f"{CORPUS}.text_field=txt", "data.jsonl, line 1: no field `txt`; the fields there are"),
        ("--data.init_args.tokenizer=nowhere", "No tokenizer in nowhere: `tokenizer.json` is miss"),
        ("--data.init_args.tokens_per_latent=3", "must be a multiple of `tokens_per_latent` (3)"),
        ("--trainer.precision=bf16-true", "use `--trainer.precision bf16-mixed`"),
        ("--data.init_args.batch_size=0", "`batch_size` must be at least 1, got 0."),
        ("--data.init_args.long_texts=error", "long_texts"),
        (f"{AUTOENCODER}.num_heads=5", "hidden_dim must be a multiple of 2 * num_heads, got 64"),
        ("--trainer.max_step=5", "unrecognized arguments: --trainer.max_step=5."),
        ("--trainer.max_steps=many", "`--trainer.max_steps`: expected int, got many."),
        ("--trainer.accelerator=abacus", "abacus"),
        ("--model.init_args.lr_schedule=x", "expected one of 'constant_with_warmup', 'cosine', "),
        ("--model.init_args.optimizer.class_path=torch.optim.Adm", "has no attribute 'Adm'"),
        ("--ckpt_path=nowhere.ckpt", "Checkpoint file not found: nowhere.ckpt."),
    ],
)
def test_wrong_input_is_one_line(refused, option, message):
    refused("autoencoder", message, option)


def test_rows_are_no_layout_for_an_autoencoder(refused):
    options = ("--data.init_args.layout=rows", "--trainer.log_every_n_steps=1")
    refused("autoencoder", "set `data.init_args.layout` to packed", *options)


def test_a_missing_or_wrong_autoencoder_is_one_line(refused, make_autoencoder, tmp_path):
    refuse = partial(refused, "denoiser")
    refuse("No autoencoder at `nowhere.ckpt`: train one with", f"{AUTOENCODER}.path=nowhere.ckpt")
    (tmp_path / "text").write_text("x")
    refuse("`text` is damaged or cut, or no checkpoint", f"{AUTOENCODER}.path=text")
    torch.save({"anything": Path("x")}, "pickled")
    refuse("it is not unpickled.", f"{AUTOENCODER}.path=pickled")
    make_autoencoder(vocab_size=40, tokens_per_latent=2).save_pretrained("small")
    message = "The autoencoder at `small` was trained with vocab_size=40, the data module has 300"
    refuse(message, f"{AUTOENCODER}.path=small")


def test_a_missing_or_wrong_configuration_is_one_line(main, tmp_path):
    code, _, error = main("fit", "-c", tmp_path / "nowhere.yaml")
    assert code == 2
    assert "File does not exist: " in error
    (tmp_path / "wrong.yaml").write_text("model: {class_path: autoencoder.Foo}")
    code, _, error = main("fit", "-c", tmp_path / "wrong.yaml")
    assert code == 2
    assert "module 'autoencoder' has no attribute 'Foo'." in error
    (tmp_path / "wrong.yaml").write_text("model: {")
    assert main("fit", "-c", tmp_path / "wrong.yaml")[0] == 2
    assert main("fit") == (
        2,
        "",
        "ldm-text: error: `--data`, `--model` must be given. See ldm-text --help.\n",
    )


def test_training_never_unpickles(main, tmp_path, monkeypatch):
    """Not even where Lightning asks for it, as it does for a checkpoint at a URL."""
    torch.save({"anything": Path("x")}, tmp_path / "pickled.ckpt")
    monkeypatch.setattr("ldm_text.cli.fail", lambda *_, **__: None)

    class Loads:
        def __init__(self, *_, **__):
            assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
            torch.load(tmp_path / "pickled.ckpt", weights_only=False)

    monkeypatch.setattr("lightning.pytorch.cli.LightningCLI.__init__", Loads.__init__)
    assert main("fit")[0] == 0
