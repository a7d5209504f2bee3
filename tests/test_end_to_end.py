"""From text to a released pipeline: tokenizer, both stages, resume, export, generate, evaluate.

The tiny configurations are trained once, for a few steps; the tests look at what that left.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from denoiser.guiders import make_guider
from denoiser.schedulers import make_scheduler, noise_shift_of
from denoiser.training import LitDenoiser
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.tokenizer import load_tokenizer
from ldm_text.training_checkpoint import load_trained_module

CONFIGS = Path(__file__).parents[1] / "configs"
pytestmark = [
    # A resumed run writes where the first one wrote, and shuffles the rest of its epoch anew.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended:UserWarning"),
]
PROMPTS = ["name[Aromi], eatType[pub]", "name[The Mill], food[French]", "name[Zizzi]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Work in one folder, with a cache of its own; paths in the configurations are relative."""
    path = tmp_path_factory.mktemp("end_to_end")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("LDM_TEXT_CACHE", str(path / "cache"))
        yield path


@pytest.fixture(scope="module")
def trained(folder, call_main):
    """Train both stages, the second one in two runs; return the checkpoints."""

    def fit(stage, max_steps, *options):
        files = ["-c", CONFIGS / stage / "e2e.yaml", "-c", CONFIGS / stage / "tiny.yaml"]
        lengths = ["max_length_tokens", 64, "max_source_length_tokens", 48, "batch_size", 32]
        data = [f"--data.init_args.{part}" if isinstance(part, str) else part for part in lengths]
        data += ["--data.init_args.corpus.init_args.source_separator", "],"]
        trainer = ["--trainer.max_steps", max_steps, "--trainer.val_check_interval", 4]
        limits = ["--trainer.limit_val_batches", 2, "--trainer.log_every_n_steps", 1]
        tokenizer = ["--data.init_args.tokenizer", "tokenizer"]
        assert call_main("fit", *files, *tokenizer, *data, *trainer, *limits, *options) == 0
        return folder / "logs" / stage / "tiny" / "checkpoints" / "last.ckpt"

    fields = ["--text_field", "target", "--source_field", "source"]
    data = ["--data", "excerpt:e2e_train", *fields]
    words = ["--pre_tokenizer", "phrases", "--vocab_size", 1000, "--output", "tokenizer"]
    assert call_main("train_tokenizer", *data, *words) == 0
    autoencoder = fit("autoencoder", 8)
    denoiser = fit("denoiser", 4)
    first = folder / "first.ckpt"
    shutil.copyfile(denoiser, first)
    assert fit("denoiser", 8, "--ckpt_path", denoiser) == denoiser
    return SimpleNamespace(autoencoder=autoencoder, first=first, denoiser=denoiser)


@pytest.fixture(scope="module")
def exported(folder, trained, call_main):
    """Export in full precision."""
    options = ["--ckpt_path", trained.denoiser, "--dtype", "float32"]
    assert call_main("export", *options, "--output", "pipeline") == 0
    return folder / "pipeline"


@pytest.fixture
def export(main, trained, tmp_path):
    return partial(main, "export", "--ckpt_path", trained.denoiser, "--output", tmp_path / "new")


def events(checkpoint):
    """Read what TensorBoard shows of a run: scalars by name and step, and the last texts."""
    scalars, texts = {}, {}
    for file in sorted(checkpoint.parents[1].glob("events.*")):
        reader = EventAccumulator(str(file)).Reload()
        for name in reader.Tags()["scalars"]:
            scalars.setdefault(name, {}).update(
                (event.step, event.value) for event in reader.Scalars(name)
            )
        for name in reader.Tags()["tensors"]:
            texts[name] = reader.Tensors(name)[-1].tensor_proto.string_val[0].decode()
    return scalars, texts


def test_checkpoints_hold_weights_and_plain_values_only(trained):
    for path, steps in ((trained.autoencoder, 8), (trained.first, 4), (trained.denoiser, 8)):
        assert torch.load(path, weights_only=True)["global_step"] == steps


def test_a_resumed_run_goes_on_where_the_first_one_ended(trained):
    first, last = (
        torch.load(path, weights_only=True) for path in (trained.first, trained.denoiser)
    )
    name = "denoiser.out.weight"
    assert not torch.equal(last["current_model_state"][name], first["current_model_state"][name])
    moments = last["optimizer_states"][0]["state"].values()
    by_adamw = [state for state in moments if "step" in state]
    by_muon = [state for state in moments if "momentum_buffer" in state]  # counts no steps
    assert len(by_adamw) + len(by_muon) == len(moments)
    assert {int(state["step"]) for state in by_adamw} == {8}
    before = first["optimizer_states"][0]["state"]
    assert by_muon
    assert all(
        not torch.equal(state["momentum_buffer"], before[key]["momentum_buffer"])
        for key, state in last["optimizer_states"][0]["state"].items()
        if "momentum_buffer" in state
    )
    scalars, _ = events(trained.denoiser)
    assert len(scalars["train/loss"]) == 8


def test_tensorboard_shows_losses_rates_and_texts_of_the_autoencoder(trained):
    scalars, texts = events(trained.autoencoder)
    for name in ("val/reconstruction", "val/token_accuracy", "val/token_accuracy_noise_1"):
        assert set(scalars[name]) == {3, 7}
    assert "lr-AdamW" in scalars
    table = texts["val/texts/text_summary"].splitlines()
    assert table[0] == "| text | reconstructed | reconstructed at noise ratio 1 |"
    assert table[1] == "| --- | --- | --- |"
    assert len(table) == 2 + 12
    assert all(row.replace(r"\|", "").count("|") == 4 for row in table)


def test_tensorboard_shows_generated_texts_and_their_bleu(trained):
    scalars, texts = events(trained.denoiser)
    assert len(scalars["val/loss"]) == 2
    assert set(scalars["val/bleu"]) == set(scalars["val/loss"])
    assert all(0 <= bleu <= 100 for bleu in scalars["val/bleu"].values())
    table = texts["val/texts/text_summary"].splitlines()
    assert table[0] == "| source | generated |"
    assert len(table) == 2 + 12
    assert all(row.startswith("| name[") for row in table[2:])


def test_an_exported_folder_writes_the_same_texts_as_the_checkpoint(exported, trained):
    module = load_trained_module(trained.denoiser, lambda _: LitDenoiser, "a denoiser")
    expected = LatentTextPipeline(
        load_tokenizer("tokenizer"),
        module.autoencoder,
        module.denoiser,
        make_scheduler("euler", module.noise_shift),
        make_guider("constant", 3.0),
        64,
        48,
    )
    loaded = LatentTextPipeline.from_pretrained(exported)
    texts, expected_texts = (
        pipeline(PROMPTS, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).texts
        for pipeline in (loaded, expected)
    )
    assert texts == expected_texts
    assert len(set(texts)) == 3
    assert all(texts)


def test_the_averaged_weights_are_taken_from_a_checkpoint(trained, tmp_path):
    content = torch.load(trained.denoiser, weights_only=True)
    for weight in content["current_model_state"].values():
        weight.fill_(7.0)
    torch.save(content, tmp_path / "copy.ckpt")
    weights = load_trained_module(
        tmp_path / "copy.ckpt", lambda _: LitDenoiser, "a denoiser"
    ).state_dict()
    assert all(torch.equal(weights[name], content["state_dict"][name]) for name in weights)


def test_an_export_keeps_both_configurations_and_reports_the_training(exported, trained):
    for stage in ("autoencoder", "denoiser"):
        original = getattr(trained, stage).parents[1] / "config.yaml"
        assert (exported / f"config_{stage}.yaml").read_text() == original.read_text()
    report = json.loads((exported / "report.json").read_text())["training"]
    assert report["denoiser"]["steps"] == report["autoencoder"]["steps"] == 8
    assert report["denoiser"]["training_seconds"] > 0
    for name in ("autoencoder", "denoiser"):
        weights = load_file(exported / name / "diffusion_pytorch_model.safetensors")
        buffers = ("statistics.latent_mean", "statistics.latent_std")
        expected = sum(value.numel() for key, value in weights.items() if key not in buffers)
        assert report["parameters"][name] == expected


def test_an_export_takes_what_decides_tokens_from_the_training(exported, folder):
    index = json.loads((exported / "model_index.json").read_text())
    assert (index["max_length_tokens"], index["max_source_length_tokens"]) == (64, 48)
    assert index["source_separator"] == "],"
    names = [path / "tokenizer.json" for path in (exported / "tokenizer", folder / "tokenizer")]
    assert json.loads(names[0].read_text()) == json.loads(names[1].read_text())


def test_an_export_is_in_half_precision_unless_told_otherwise(export, tmp_path):
    code, printed, error = export("--scheduler", "dpm++", "--guidance_scale", 2)
    assert (code, printed, error) == (0, "", f"Wrote {tmp_path / 'new'}\n")
    for name in ("autoencoder", "denoiser"):
        weights = load_file(tmp_path / "new" / name / "diffusion_pytorch_model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    loaded = LatentTextPipeline.from_pretrained(tmp_path / "new")
    assert loaded.scheduler.config.flow_shift == 4.0
    assert loaded.guider.guidance_scale == 2


def test_an_export_takes_a_grid_with_another_noise_shift(export, tmp_path):
    code, _, error = export("--noise_shift", 0)
    assert code == 2
    assert "`noise_shift` must be larger than 0" in error
    assert not (tmp_path / "new").exists()
    assert export("--noise_shift", 9)[0] == 0
    assert noise_shift_of(LatentTextPipeline.from_pretrained(tmp_path / "new").scheduler) == 9


def test_an_export_replaces_a_pipeline_only_where_told_to(export, tmp_path):
    output = tmp_path / "new"
    output.mkdir()
    (output / "README.md").write_text("kept")
    assert export()[0] == 0
    before = (output / "model_index.json").stat().st_mtime_ns
    code, _, error = export()
    assert code == 2
    assert f"`--output`: `{output}` holds a pipeline; name another folder" in error
    assert (output / "model_index.json").stat().st_mtime_ns == before
    assert export("--overwrite")[0] == 0
    assert (output / "model_index.json").stat().st_mtime_ns > before
    assert (output / "README.md").read_text() == "kept"


def test_an_export_leaves_nothing_of_a_pipeline_of_another_family(export, tmp_path):
    """An overwritten pipeline kept its components, and their checksums stood among the new ones."""
    output = tmp_path / "new"
    assert export()[0] == 0
    (output / "denoiser" / "config.json").rename(output / "denoiser" / "old.json")
    for name in ("token_model/config.json", "classifiers/tone/config.json"):
        (output / name).parent.mkdir(parents=True)
        (output / name).write_text("{}")
    (output / "config_token_model.yaml").touch()
    names = {"denoiser/old.json", "token_model/config.json", "config_token_model.yaml"}
    assert all((output / name).exists() for name in names)
    assert export("--overwrite")[0] == 0
    assert not any((output / name).exists() for name in names)
    assert not (output / "token_model").exists()
    assert (output / "classifiers" / "tone" / "config.json").exists()
    assert "old.json" not in (output / "SHA256SUMS").read_text()


def test_an_export_that_fails_leaves_no_whole_pipeline(export, tmp_path, monkeypatch):
    assert export()[0] == 0

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LatentTextPipeline, "save_pretrained", fail)
    assert export("--overwrite")[0] == 2
    with pytest.raises(FileNotFoundError, match=r"`model_index\.json` is missing"):
        LatentTextPipeline.from_pretrained(tmp_path / "new")


def test_a_checkpoint_without_its_configuration_needs_tokenizer_and_lengths(
    main, trained, folder, tmp_path
):
    copy = tmp_path / "copy" / "some.ckpt"
    copy.parent.mkdir()
    shutil.copyfile(trained.denoiser, copy)
    command = ["export", "--ckpt_path", copy, "--output", tmp_path / "new"]
    code, _, error = main(*command)
    assert code == 2
    assert "`--tokenizer` is needed: the checkpoint stands beside no config.yaml." in error
    assert not (tmp_path / "new").exists()
    lengths = ["--max_length_tokens", 32, "--max_source_length_tokens", 16]
    assert main(*command, "--tokenizer", folder / "tokenizer", *lengths)[0] == 0
    config = LatentTextPipeline.from_pretrained(tmp_path / "new").config
    assert (config.max_length_tokens, config.max_source_length_tokens) == (32, 16)


def test_a_file_that_is_no_checkpoint_of_a_denoiser_is_refused(main, trained, tmp_path):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(trained.denoiser.read_bytes()[:1000])
    text = tmp_path / "text.ckpt"
    text.write_text("x")
    for path in (trained.autoencoder, cut, text):
        code, _, error = main("export", "--ckpt_path", path, "--output", tmp_path / "new")
        assert code == 2
        message = f"ldm-text: error: `--ckpt_path`: `{path}` is no checkpoint of a denoiser "
        assert error.splitlines()[-1].startswith(message)
        assert not (tmp_path / "new").exists()


def test_generate_and_evaluate_read_the_exported_folder(main, exported, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    files = ["--prompts", tmp_path / "prompts.txt", "--output", tmp_path / "out.jsonl"]
    assert main("generate", "--pipeline", exported, *files, "--num_inference_steps", 2)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == PROMPTS

    data = ["--data", "excerpt:e2e_validation", "--training_data", "excerpt:e2e_train"]
    sizes = ["--max_rows", 4, "--num_distinct_samples", 2, "--output", tmp_path / "report.json"]
    grid = [
        "--num_inference_steps",
        "[2, 1]",
        "--guidance_scale",
        "[1, 2]",
        "--schedulers",
        "[heun]",
    ]
    assert main("evaluate", "--pipeline", exported, *data, *sizes, *grid)[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["data"]["num_sources"] == 4
    grid = {(row["num_inference_steps"], row["guidance_scale"]) for row in report["generation"]}
    assert grid == {(2, 1), (2, 2), (1, 1), (1, 2)}
    assert {row["scheduler"] for row in report["generation"]} == {"pipeline", "heun"}
    for row in report["generation"]:
        assert 0 <= row["bleu"] <= 100
        assert 0 <= row["slot_error_rate"] <= 1
        assert 0 <= row["copied_from_training"] <= 1
    assert 1 <= report["diversity"]["mean_distinct_texts"] <= 2
    assert 0 < report["autoencoder"]["token_accuracy"] <= 1
    assert (tmp_path / "report.png").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # nothing is saved there
def test_a_run_can_be_validated_from_its_checkpoint(main, trained):
    config = trained.autoencoder.parents[1] / "config.yaml"
    assert yaml.safe_load(config.read_text())["trainer"]["max_steps"] == 8
    options = ["--trainer.logger", "false", "--ckpt_path", trained.autoencoder]
    code, printed, _ = main("validate", "-c", config, *options)
    assert code == 0
    assert "val/token_accuracy" in printed


@pytest.mark.parametrize("kind", ["missing", "cut", "pickled", "of another model"])
def test_resuming_from_a_wrong_checkpoint_is_one_line(main, trained, tmp_path, kind):
    path = tmp_path / "wrong.ckpt"
    if kind == "cut":
        path.write_bytes(trained.autoencoder.read_bytes()[:1000])
    elif kind == "pickled":
        torch.save({"state_dict": {}, "anything": Path("x")}, path)
    elif kind == "of another model":
        content = torch.load(trained.autoencoder, weights_only=True)
        content["state_dict"].popitem()
        torch.save(content, path)
    config = trained.autoencoder.parents[1] / "config.yaml"
    options = ["--trainer.logger", "false", "--trainer.max_steps", 9, "--ckpt_path", path]
    code, _, error = main("fit", "-c", config, *options)
    assert code == 2
    line = error.splitlines()[-1]
    assert line.startswith("ldm-text: error: ")
    assert "heckpoint" in line or "--ckpt_path" in line
    assert "Traceback" not in error
