"""Students and adapted decoders by the command line: train, resume, export, generate."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from denoiser import PretrainedDenoiser
from ldm_text.loading import load_pipeline

CONFIGS = Path(__file__).parents[2] / "configs" / "distillation"
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended:UserWarning"),
]


@pytest.fixture
def fit(main, pipeline_folder, toy_tokenizer_folder, tmp_path, monkeypatch):
    """Train by a configuration on the pipeline of toy size; return the last checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path / "cache"))

    def run(name, part, *options, overlays=(), fails=False, path=pipeline_folder):
        given = {
            "data.init_args.tokenizer": toy_tokenizer_folder,
            "data.init_args.corpus.init_args.train": "excerpt:e2e_validation",
            "data.init_args.corpus.init_args.validation": "excerpt:e2e_validation",
            "data.init_args.max_length_tokens": 16,
            "data.init_args.max_source_length_tokens": 24,
            "data.init_args.long_texts": "truncate",
            "data.init_args.batch_size": 16,
            f"model.init_args.{part}.init_args.path": path,
            "model.init_args.compile_network": "false",
            "model.init_args.warmup_steps": 0,
            "trainer.precision": "32-true",
            "trainer.limit_val_batches": 1,
            "trainer.log_every_n_steps": 1,
        }
        files = [option for file in (name, *overlays) for option in ("-c", CONFIGS / file)]
        arguments = [f"--{key}={value}" for key, value in given.items()]
        code, _, error = main("fit", *files, *arguments, *options)
        if fails:
            return code, error
        assert code == 0, error
        return next((tmp_path / "logs").rglob("last.ckpt"))

    return run


def steps(max_steps, *more):
    return [f"--trainer.max_steps={max_steps}", f"--trainer.val_check_interval={max_steps}", *more]


def objective(**options):
    return [
        f"--model.init_args.objective.init_args.{name}={value}" for name, value in options.items()
    ]


def parts_of(checkpoint, prefix):
    weights = checkpoint["state_dict"]
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def weights_of(folder, component):
    return load_file(folder / component / "diffusion_pytorch_model.safetensors")


@pytest.fixture
def export(main, tmp_path):
    def run(checkpoint, *options):
        output = tmp_path / "exported"
        options = ("--ckpt_path", checkpoint, "--output", output, "--dtype", "float32", *options)
        code, _, error = main("export", *options)
        assert code == 0, error
        return output

    return run


ROUNDS = objective(student_steps="[4,2]", round_steps="[2,2]", teacher_steps=8)


def test_a_student_is_trained_resumed_and_exported_with_its_own_sampling(
    fit, export, pipeline_folder, tmp_path
):
    first = fit("e2e.yaml", "teacher", *ROUNDS, *steps(2), "--model.init_args.clamp_start=0.5")
    half = torch.load(first, weights_only=True)
    assert half["distillation_round"] == 0
    student, teacher = (parts_of(half, name) for name in ("denoiser.", "teacher.denoiser."))
    assert not all(torch.equal(student[name], teacher[name]) for name in student)

    more = [*steps(4), "--model.init_args.clamp_start=0.5", f"--ckpt_path={first}"]
    assert fit("e2e.yaml", "teacher", *ROUNDS, *more) == first
    resumed = torch.load(first, weights_only=True)
    assert resumed["distillation_round"] == 1
    teacher = parts_of(resumed, "teacher.denoiser.")
    assert all(torch.equal(student[name], teacher[name]) for name in student)

    folder = export(first)
    pipeline = load_pipeline(folder)
    assert pipeline.default_num_inference_steps == 2
    assert pipeline.config.clamp_start == 0.5
    assert pipeline.guider.num_conditions == 1
    assert type(pipeline.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert pipeline.scheduler.config["shift"] == 4.0
    assert (folder / "config_distillation.yaml").is_file()
    assert (
        json.loads((folder / "report.json").read_text())["training"]["distillation"]["steps"] == 4
    )
    calls = []
    pipeline.denoiser.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    assert len(pipeline("name[The Mill]").texts) == 1
    assert calls == [1, 1]
    before, after = (weights_of(one, "autoencoder") for one in (pipeline_folder, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_student_of_consistency_is_exported_with_lcm(fit, export):
    options = [*objective(student_steps=3, teacher_steps=8), *steps(1)]
    folder = export(fit("e2e.yaml", "teacher", *options, overlays=["e2e_consistency.yaml"]))
    pipeline = load_pipeline(folder)
    assert pipeline.default_num_inference_steps == 3
    assert type(pipeline.scheduler).__name__ == "FlowMatchLCMScheduler"
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    texts = pipeline(["name[The Mill]", None], generator=generators).texts
    alone = pipeline([None], generator=[torch.Generator().manual_seed(1)]).texts
    assert texts[1] == alone[0]


def test_a_flow_map_is_resumed_and_exported_with_its_scheduler(fit, export):
    options = objective(student_steps=3, teacher_steps=8)
    files = ["e2e_flow_map.yaml"]
    first = fit("e2e.yaml", "teacher", *options, *steps(1), overlays=files)
    fit("e2e.yaml", "teacher", *options, *steps(2), f"--ckpt_path={first}", overlays=files)
    assert torch.load(first, weights_only=True)["global_step"] == 2
    pipeline = load_pipeline(export(first))
    assert pipeline.default_num_inference_steps == 3
    assert type(pipeline.scheduler).__name__ == "FlowMapEulerDiscreteScheduler"
    assert pipeline.denoiser.config.flow_map
    for num_steps in (1, 2, None):
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        given = {"num_inference_steps": num_steps}
        texts = pipeline(["name[The Mill]", None], generator=generators, **given).texts
        alone = pipeline([None], generator=[torch.Generator().manual_seed(1)], **given).texts
        assert texts[1] == alone[0]


def test_an_adapted_decoder_takes_the_place_of_the_old_one_and_nothing_else_changes(
    fit, export, pipeline_folder
):
    options = ["--model.init_args.max_accuracy_loss=1.0", *steps(2)]
    folder = export(fit("e2e_decoder.yaml", "pretrained", *options), "--num_inference_steps", "5")
    pipeline = load_pipeline(folder)
    assert pipeline.default_guidance_scale == 2.0
    assert pipeline.default_num_inference_steps == 5
    assert (folder / "config_decoder.yaml").is_file()
    for component in ("autoencoder", "denoiser"):
        before, after = (weights_of(one, component) for one in (pipeline_folder, folder))
        for name, value in before.items():
            assert torch.equal(value, after[name]) != name.startswith("decoder."), name


def test_a_checkpoint_of_a_student_or_an_adapted_decoder_is_to_be_exported_first(fit, tmp_path):
    student = fit("e2e.yaml", "teacher", *ROUNDS, *steps(1))
    code, error = fit("e2e_decoder.yaml", "pretrained", *steps(1), fails=True, path=student)
    assert code == 2
    message = (
        f"`{student}` is a checkpoint of a student (LitDistillation): write it to a folder with"
    )
    assert message in error
    with pytest.raises(ValueError, match=r"with `ldm-text export --ckpt_path .* --output FOLDER`"):
        PretrainedDenoiser(str(student))

    content = torch.load(student, weights_only=True)
    del content["hyper_parameters"]["teacher"]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt` is no checkpoint of a denoiser: .* Name"):
        PretrainedDenoiser(str(tmp_path / "other.ckpt"))

    student.unlink()
    options = ["--model.init_args.max_accuracy_loss=1.0", *steps(1)]
    adapted = fit("e2e_decoder.yaml", "pretrained", *options)
    with pytest.raises(ValueError, match=r"of an adapted decoder \(LitDecoderAdaptation\): write"):
        PretrainedDenoiser(str(adapted))


def test_a_teacher_of_other_data_is_refused_in_one_line(fit, pipeline_folder, tmp_path):
    separator = ["--data.init_args.corpus.init_args.source_separator=],"]
    for path, options, message in (
        (pipeline_folder, separator, "with `source_separator` null, the corpus has '],'"),
        (pipeline_folder, ["--data.init_args.tokens_per_latent=2"], "tokens_per_latent=4"),
        (tmp_path / "nothing", [], "No denoiser at"),
        (pipeline_folder, [*ROUNDS, *steps(5)], "`trainer.max_steps` must be at most 4"),
    ):
        code, error = fit("e2e.yaml", "teacher", *options, fails=True, path=path)
        assert code == 2
        assert message in error
        assert error.strip().splitlines()[-1].startswith("ldm-text: error: ")


@pytest.mark.parametrize(
    ("name", "part"), [("e2e.yaml", "teacher"), ("e2e_decoder.yaml", "pretrained")]
)
def test_the_separator_of_the_corpus_is_compared_with_that_of_the_folder(
    fit, pipeline_folder, name, part
):
    index = pipeline_folder / "model_index.json"
    content = json.loads(index.read_text())
    assert content["source_separator"] is None
    index.write_text(json.dumps(content | {"source_separator": "],"}))
    options = [*(ROUNDS if part == "teacher" else []), *steps(1)]
    code, error = fit(name, part, *options, fails=True)
    assert code == 2
    assert "was trained with `source_separator` '],', the corpus has null" in error
