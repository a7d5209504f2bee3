"""Every YAML file parses, a misspelt key is refused, and the small ones train a step."""

import json
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
COMPARISONS = sorted(CONFIGS.glob("compare/*.yaml"))
BENCHES = sorted(CONFIGS.glob("bench/*.yaml"))
TARGETS = sorted(CONFIGS.glob("targets/*.yaml"))
ABLATIONS = CONFIGS / "ablations" / "rows.yaml"
NO_TRAININGS = {*COMPARISONS, *BENCHES, *TARGETS, ABLATIONS}
FILES = sorted({*CONFIGS.rglob("*.yaml")} - NO_TRAININGS)
NAMES = [str(path.relative_to(CONFIGS)) for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_config_parses_and_hides_nothing(parse, path):
    config = parse(path)
    assert isinstance(config["seed_everything"], int)
    trainer = config["trainer"]
    assert trainer["max_steps"] > 0
    assert trainer["logger"]["class_path"].endswith("TensorBoardLogger")
    callbacks = {
        callback["class_path"].split(".")[-1]: callback.get("init_args", {})
        for callback in trainer["callbacks"]
    }
    wanted = {"Timer", "LearningRateMonitor", "TQDMProgressBar", "ModelCheckpoint"}
    if path.parent.name != "classifiers":  # which write no texts
        wanted |= {"LogTexts"}
    assert wanted <= callbacks.keys()
    # The last step is saved in its turn, and an autoencoder's is validated, which measures it.
    steps, interval = trainer["max_steps"], callbacks["ModelCheckpoint"]["every_n_train_steps"]
    assert steps < interval or steps % interval == 0
    if config["model"]["class_path"].endswith("LitAutoencoder"):
        assert steps < interval or steps % trainer["val_check_interval"] == 0


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_parses_and_measures_under_each_seed(main, path):
    code, printed, error = main("compare", "--config", path, "--output", "x", "--print_config")
    assert (code, error) == (0, "")
    config = yaml.safe_load(printed)
    assert len(config["seeds"]) > 1
    pipelines = [generator["pipeline"] for generator in config["generators"]]
    assert config["scorer"] is None or config["scorer"] in pipelines


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_targets_are_told_by_the_tables_of_the_documentation(main, monkeypatch, path):
    monkeypatch.chdir(CONFIGS.parent)
    code, table, _ = main("targets", "--config", path)
    wanted = yaml.safe_load(path.read_text())["targets"]
    assert len(table.splitlines()) == 2 + len(wanted)
    assert code == (1 if "| no |" in table else 0)
    assert table in (CONFIGS.parent / "docs" / f"{path.stem}.md").read_text()


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_bench_parses_and_times_what_is_compared(main, path):
    code, printed, error = main("bench", "--config", path, "--output", "x", "--print_config")
    assert (code, error) == (0, "")
    comparison = CONFIGS / "compare" / f"{path.stem.split('_')[0]}.yaml"
    timed, compared = (
        {
            generator["name"].removesuffix(", compiled"): generator["pipeline"]
            for generator in config["generators"]
        }
        for config in (yaml.safe_load(printed), yaml.safe_load(comparison.read_text()))
    )
    assert timed.items() <= compared.items()


PLACES = ["", "trainer", "data.init_args", "model.init_args.optimizer.init_args"]


@pytest.mark.parametrize(
    ("path", "place"),
    [(path, "model.init_args") for path in FILES] + [(FILES[0], place) for place in PLACES],
)
def test_a_misspelt_key_is_refused(main, tmp_path, path, place, config_options):
    typo = {"batchsize": 3}
    for name in reversed(place.split(".") if place else []):
        typo = {name: typo}
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(typo))
    code, printed, error = main("fit", *config_options(path), "-c", tmp_path / "typo.yaml")
    assert (code, printed) == (2, "")
    assert error.startswith("ldm-text: error: ")
    assert "batchsize" in error
    assert error.count("\n") == 1


@pytest.fixture
def fit_stages(main, tmp_path, monkeypatch, config_options):
    """Train both stages of a data set for a step, in a folder and with a tokenizer of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path / "cache"))

    def run(name, data, autoencoder, denoiser):
        words = ["--vocab_size", 400, "--output", "tokenizer"]
        assert main("train_tokenizer", *data, *words)[0] == 0
        common = ["--data.init_args.tokenizer", "tokenizer", "--trainer.max_steps", 1]
        common += ["--trainer.limit_val_batches", 1]
        for stage, options in (("autoencoder", autoencoder), ("denoiser", denoiser)):
            files = config_options(CONFIGS / stage / name)
            code, _, error = main("fit", *files, *common, *options)
            assert code == 0, error
            version = name.removesuffix(".yaml")
            assert Path("logs", stage, version, "checkpoints", "last.ckpt").is_file()

    return run


def test_tiny_overlays_train_a_step(fit_stages, main, config_options):
    """The student's teacher, and what is diagnosed, are the checkpoints of the stages before."""
    options = ["--data.init_args.long_texts", "truncate"]
    data = ["--data", "excerpt:e2e_train", "--text_field", "target"]
    fit_stages("tiny.yaml", data, options, options)
    few = ["--data.init_args.tokenizer", "tokenizer", "--trainer.max_steps", 1]
    few += ["--trainer.limit_val_batches", 1, *options]
    code, _, error = main("fit", *config_options(CONFIGS / "distillation" / "tiny.yaml"), *few)
    assert code == 0, error

    trained = "logs/denoiser/tiny/checkpoints/last.ckpt"
    denoiser = f"{{class_path: denoiser.PretrainedDenoiser, init_args: {{path: {trained}}}}}"
    go_on = ["--model.init_args.denoiser", denoiser, "--trainer.logger.init_args.version", "more"]
    files = config_options(CONFIGS / "denoiser" / "tiny.yaml")
    code, _, error = main("fit", *files, *few, *go_on)
    assert code == 0, error
    more = "logs/denoiser/more/checkpoints/last.ckpt"
    code, _, error = main("export", "--ckpt_path", more, "--output", "pipeline")
    assert code == 0, error
    assert Path("pipeline", "denoiser", "diffusion_pytorch_model.safetensors").is_file()

    denoiser = "{class_path: denoiser.PretrainedDenoiser, init_args: {path: pipeline}}"
    go_on[1:2] = [denoiser, "--data.init_args.corpus.init_args.source_separator", "],"]
    code, _, error = main("fit", *files, *few, *go_on)
    assert code == 2
    assert "was trained with `source_separator` null, the corpus has '],'" in error

    checkpoint = "logs/autoencoder/tiny/checkpoints/last.ckpt"
    texts = ["--data", "excerpt:e2e_validation", "--max_rows", 8]
    code, _, error = main("diagnose", "--pipeline", checkpoint, *texts, "--output", "found.json")
    assert code == 0, error
    assert list(json.loads(Path("found.json").read_text())["decoder"]) == ["clean", "noised"]


@pytest.mark.slow
def test_tinystories_configs_train_a_step(fit_stages):
    options = [
        "--data.init_args.corpus.init_args.train=excerpt:tinystories_train",
        "--data.init_args.corpus.init_args.validation=excerpt:tinystories_validation",
        "--data.init_args.batch_size=4",
        "--model.init_args.compile_network=false",
    ]
    widths = ["autoencoder.init_args.hidden_dim=32", "denoiser.init_args.hidden_dim=80"]
    autoencoder, denoiser = ([*options, f"--model.init_args.{width}"] for width in widths)
    fit_stages("tinystories.yaml", ["--data", "excerpt:tinystories_train"], autoencoder, denoiser)
