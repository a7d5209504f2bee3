"""Every baseline goes the way of the latent model: fit, export, generate."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from ldm_text.baselines.self_distillation_training import LitSelfDistillation
from ldm_text.baselines.training import LitTokenModel
from ldm_text.loading import load_pipeline

CONFIGS = Path(__file__).parents[3] / "configs" / "baselines"
NAMES = sorted({path.stem for path in CONFIGS.glob("e2e_*.yaml")} - {"e2e_teacher"})  # an overlay
SMALL = ["max_length_tokens", 64, "max_source_length_tokens", 48, "batch_size", 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, call_main):
    """Work in one folder, with a tokenizer and a cache of its own."""
    path = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("LDM_TEXT_CACHE", str(path / "cache"))
        data = ["--data", "excerpt:e2e_train", "--text_field", "target", "--source_field", "source"]
        words = ["--pre_tokenizer", "phrases", "--vocab_size", 1000, "--output", "tokenizer"]
        assert call_main("train_tokenizer", *data, *words) == 0
        yield path


@pytest.fixture(scope="module", params=NAMES)
def trained(request, folder, call_main):
    """Train a baseline for two steps; return its name and its checkpoint."""
    name = request.param
    files = ["-c", CONFIGS / f"{name}.yaml", "-c", CONFIGS / "tiny.yaml"]
    data = [f"--data.init_args.{part}" if isinstance(part, str) else part for part in SMALL]
    options = ["--data.init_args.tokenizer", "tokenizer", "--trainer.max_steps", 2]
    options += ["--trainer.val_check_interval", 2, "--trainer.limit_val_batches", 1]
    assert call_main("fit", *files, *data, *options) == 0
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    run = config["trainer"]["logger"]["init_args"]["name"]
    return name, folder / "logs" / run / "tiny" / "checkpoints" / "last.ckpt"


def test_a_baseline_trains_and_generates_from_its_released_folder(main, trained, tmp_path):
    name, checkpoint = trained
    pipeline = tmp_path / "pipeline"
    code, _, error = main("export", "--ckpt_path", checkpoint, "--output", pipeline)
    assert (code, error.strip()) == (0, f"Wrote {pipeline}")
    assert (pipeline / "config_token_model.yaml").is_file()
    assert (
        json.loads((pipeline / "report.json").read_text())["training"]["token_model"]["steps"] == 2
    )

    (tmp_path / "prompts.txt").write_text("name[Aromi], eatType[pub]\nname[Zizzi]\n")
    steps = [] if "autoregressive" in name else ["--num_inference_steps", 16]
    files = ["--prompts", tmp_path / "prompts.txt", "--output", tmp_path / "out.jsonl"]
    code, printed, error = main("generate", "--pipeline", pipeline, *files, *steps)
    assert (code, error) == (0, "")
    assert printed.startswith("2 texts, ")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["name[Aromi], eatType[pub]", "name[Zizzi]"]


def test_the_checkpoint_alone_tells_the_model(trained):
    module = LitTokenModel.load_from_checkpoint(trained[1], weights_only=True)
    assert module.token_model.config.hidden_dim == 64
    assert module.token_model.config.vocab_size == 1000


@pytest.mark.parametrize(
    "option", ["scheduler=heun", "guidance_scale=2", "clamp_start=0.5", "noise_shift=9"]
)
def test_options_of_latent_pipelines_are_refused(main, trained, tmp_path, option):
    output = ["--output", tmp_path / "pipeline", f"--{option}"]
    code, _, error = main("export", "--ckpt_path", trained[1], *output)
    assert code == 2
    assert f"`--{option.split('=')[0]}` has no effect for a baseline" in error
    assert not (tmp_path / "pipeline").exists()


def test_the_bf16_folder_writes_text(main, trained, tmp_path):
    """The released weights are bfloat16; networks compute in float32 where asked."""
    pipeline = tmp_path / "pipeline"
    assert main("export", "--ckpt_path", trained[1], "--output", pipeline)[0] == 0
    loaded = load_pipeline(pipeline)
    assert {weight.dtype for weight in loaded.token_model.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def distilled(folder, call_main):
    """Train a masked model and its student of few steps; return the student's checkpoint."""
    data = [f"--data.init_args.{part}" if isinstance(part, str) else part for part in SMALL]
    data += ["--data.init_args.tokenizer", "tokenizer", "--trainer.limit_val_batches", 1]
    files = ["-c", CONFIGS / "e2e_masked.yaml", "-c", CONFIGS / "tiny.yaml"]
    steps = ["--trainer.max_steps", 1, "--trainer.val_check_interval", 1]
    place = ["--trainer.logger.init_args.version", "teacher"]
    assert call_main("fit", *files, *data, *steps, *place) == 0
    options = {
        "data.init_args.corpus.init_args.train": "excerpt:e2e_train",
        "data.init_args.corpus.init_args.validation": "excerpt:e2e_validation",
        "model.init_args.token_teacher.init_args.path": "logs/masked/teacher/checkpoints/last.ckpt",
        "model.init_args.objective.init_args.round_steps": "[1,1]",
        "model.init_args.warmup_steps": 0,
        "model.init_args.compile_network": "false",
        "trainer.max_steps": 2,
        "trainer.precision": "32-true",
        "trainer.val_check_interval": 2,
    }
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    config = CONFIGS.parent / "distillation" / "e2e_masked_sdtt.yaml"
    assert call_main("fit", "-c", config, *data, *words) == 0
    return folder / "logs" / "distillation" / "e2e_masked_sdtt" / "checkpoints" / "last.ckpt"


def test_a_student_of_few_steps_goes_the_same_way(main, distilled, tmp_path):
    pipeline = tmp_path / "pipeline"
    code, _, error = main("export", "--ckpt_path", distilled, "--output", pipeline)
    assert (code, error.strip()) == (0, f"Wrote {pipeline}")
    student = LitSelfDistillation.load_from_checkpoint(distilled, weights_only=True)
    assert student.round_index == 1
    loaded = load_pipeline(pipeline).token_model
    for name, weight in student.token_model.state_dict().items():
        assert torch.equal(weight.bfloat16().float(), loaded.state_dict()[name])


def test_a_baseline_may_keep_its_weights_in_16_bits(make_baseline, fit, make_texts):
    """Unlike the latent models, it measures nothing that would be rounded."""
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    module = LitTokenModel(make_baseline("autoregressive"), optimizer)
    assert fit(module, make_texts(), 1, precision="bf16-true").global_step == 1
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
