"""Every YAML file parses, its stages agree, and a misspelt key is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from autoencoder import TextAutoencoder
from denoiser import LatentDenoiser
from ldm_text import baselines
from ldm_text.baselines.sequences import token_batch

CONFIGS = Path(__file__).parents[1] / "configs"
COMPARISONS = sorted(CONFIGS.glob("compare/*.yaml"))
CLASSIFIERS = sorted(CONFIGS.glob("classifiers/*.yaml"))
BENCHES = sorted(CONFIGS.glob("bench/*.yaml"))
ABLATIONS = CONFIGS / "ablations" / "rows.yaml"
NO_TRAININGS = {*COMPARISONS, *BENCHES, ABLATIONS}
FILES = sorted({*CONFIGS.rglob("*.yaml")} - NO_TRAININGS)
STAGES = ("autoencoder", "denoiser")
BASELINES = sorted(
    path
    for path in CONFIGS.glob("baselines/*_*.yaml")
    # The teacher is larger, as it is no part of the comparison; ParaDetox has a test of its own.
    if path.stem not in ("e2e_teacher", "paradetox_autoregressive")
)
NAMES = [str(path.relative_to(CONFIGS)) for path in FILES]


UPON_SMALL = ("e2e_small_distilled", "e2e_small_fields", "e2e_small_muon")
UPON_FIELDS = ("e2e_small_complete",)
OVERLAYS = ("tiny", "e2e_distilled", "e2e_small", *UPON_SMALL, *UPON_FIELDS)
OVERLAYS += ("tinystories_small", "e2e_infill", "e2e_teacher", "paradetox_autoregressive")
REWRITING = ("bible_kjv_bbe", "onestopenglish", "rewriting", "wikisplit")  # upon ParaDetox
TOKENS = {"e2e": (64, 44), "tinystories": (64, 0)}  # of a row: text and source


def distillation_bases(path):
    """What a student's overlay stands upon: a student of the compared model on that of its data."""
    if path.stem.endswith("decoder_small"):
        return ["e2e_decoder.yaml"]
    if path.stem == "tinystories_masked_sdtt":
        return ["e2e_masked_sdtt.yaml"]
    data = path.stem.split("_")[0]
    is_first = path.stem in (f"{data}_small", "e2e_consistency", "e2e_flow_map", "tiny")
    return ["e2e.yaml"] if is_first else ["e2e.yaml", f"{data}_small.yaml"]


def config_options(path):
    """Options that name a configuration; an overlay stands upon another one."""
    if path.parent.parent.name == "ablations":
        stage = CONFIGS / path.parent.name
        return ["-c", stage / "e2e.yaml", "-c", stage / "e2e_small.yaml", "-c", path]
    is_student = path.stem.endswith(("_small", "_fields", "_consistency", "_flow_map", "tiny"))
    is_student = is_student or path.stem == "tinystories_masked_sdtt"
    if path.parent.name == "distillation" and is_student:
        files = [path.with_name(name) for name in distillation_bases(path)]
        return [option for file in (*files, path) for option in ("-c", file)]
    if path.parent.name == "demonstrations":  # the tasks stand upon the first one
        first = path.with_name(f"arithmetic_{path.stem.rsplit('_', 1)[1]}.yaml")
        return ["-c", first] if path == first else ["-c", first, "-c", path]
    if path.stem in REWRITING:
        return ["-c", path.with_name("paradetox.yaml"), "-c", path]
    if path.stem not in OVERLAYS:
        return ["-c", path]
    if path.stem in UPON_SMALL + UPON_FIELDS:
        below = ["e2e.yaml", "e2e_small.yaml"]
        below += ["e2e_small_fields.yaml"] if path.stem in UPON_FIELDS else []
        files = [path.with_name(name) for name in (*below, path.name)]
        return [option for file in files for option in ("-c", file)]
    name = "tinystories.yaml" if path.stem.startswith("tinystories") else "e2e.yaml"
    if path.parent.name == "baselines":
        name = "e2e_autoregressive.yaml"
    return ["-c", path.with_name(name), "-c", path]


@pytest.fixture
def parse(main):
    """Return a configuration as the command line reads it, all defaults filled in."""

    def run(path):
        code, printed, error = main("fit", *config_options(path), "--print_config")
        assert (code, error) == (0, "")
        return yaml.safe_load(printed)

    return run


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
    # The last checkpoint is that of the last step; one at the end comes only where none was before.
    steps, interval = trainer["max_steps"], callbacks["ModelCheckpoint"]["every_n_train_steps"]
    assert steps < interval or steps % interval == 0


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_classifiers_see_the_latents_of_the_denoiser(parse, path):
    """The same autoencoder, lengths and tokenizer; where both have labels, the same ones."""
    classifier, denoiser = parse(path), parse(CONFIGS / "denoiser" / path.name)
    name = "autoencoder"
    assert classifier["model"]["init_args"][name] == denoiser["model"]["init_args"][name]
    mine, theirs = (config["data"]["init_args"] for config in (classifier, denoiser))
    corpora = [data.pop("corpus")["init_args"] for data in (mine, theirs)]
    assert mine == theirs
    labels = [corpus["labels"] for corpus in corpora]
    assert labels[0] == labels[1] or labels[1] is None


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_parses_and_measures_under_each_seed(main, path):
    code, printed, error = main("compare", "--config", path, "--output", "x", "--print_config")
    assert (code, error) == (0, "")
    config = yaml.safe_load(printed)
    assert len(config["seeds"]) > 1
    pipelines = [generator["pipeline"] for generator in config["generators"]]
    assert config["scorer"] is None or config["scorer"] in pipelines


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


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("autoencoder/*.yaml")))
def test_both_stages_of_a_data_set_agree(parse, name):
    autoencoder, denoiser = (parse(CONFIGS / stage / name) for stage in ("autoencoder", "denoiser"))
    first, second = (config["data"]["init_args"] for config in (autoencoder, denoiser))
    assert (first.pop("layout"), second.pop("layout")) == ("packed", "rows")
    for data in (first, second):  # a teacher's texts are for the denoiser alone
        data["corpus"]["init_args"] |= {"generated": None, "train_on": "train"}
    assert first | {"batch_size": 0} == second | {"batch_size": 0}
    logger = autoencoder["trainer"]["logger"]["init_args"]
    run = Path(logger["save_dir"]) / logger["name"] / logger["version"]
    trained = denoiser["model"]["init_args"]["autoencoder"]["init_args"]["path"]
    assert trained == str(run / "checkpoints" / "last.ckpt")


def test_distillation_changes_the_data_alone(parse):
    """But for the texts, and where the run is kept, it is the run of the plain configuration."""
    plain, distilled = (
        parse(CONFIGS / "denoiser" / name) for name in ("e2e.yaml", "e2e_distilled.yaml")
    )
    corpus = distilled["data"]["init_args"]["corpus"]["init_args"]
    assert corpus.pop("generated").endswith("e2e.jsonl")
    assert corpus.pop("train_on") == "generated"
    plain_corpus = plain["data"]["init_args"]["corpus"]["init_args"]
    assert (plain_corpus.pop("generated"), plain_corpus.pop("train_on")) == (None, "train")
    for config in (plain, distilled):
        config["trainer"].pop("max_steps")
        config["trainer"]["logger"]["init_args"].pop("version")
    assert plain == distilled


def test_the_small_distillation_changes_texts_and_optimizer_alone(parse):
    """But for texts, optimizer, and where the run is kept, it is the run of the compared model."""
    plain, distilled, released = (
        parse(CONFIGS / "denoiser" / f"{name}.yaml")
        for name in ("e2e_small", "e2e_small_distilled", "e2e_small_muon")
    )
    configs, texts, optimizers = (plain, distilled, released), [], []
    for config in configs:
        corpus = config["data"]["init_args"]["corpus"]["init_args"]
        texts.append((corpus.pop("generated"), corpus.pop("train_on")))
        optimizers.append(config["model"]["init_args"].pop("optimizer"))
        config["trainer"].pop("max_steps")
        config["trainer"]["logger"]["init_args"].pop("version")
    assert texts == [
        (None, "train"),
        ("generated/e2e_small.jsonl", "generated"),
        ("generated/e2e_small_60k.jsonl", "generated"),
    ]
    assert optimizers[0] == optimizers[1]
    assert optimizers[2]["class_path"] == "autoencoder.MuonWithAdamW"
    assert optimizers[2]["init_args"]["lr"] == optimizers[0]["init_args"]["lr"]
    assert plain == distilled == released


def test_fields_of_sources_are_the_same_in_both_stages(parse):
    """But for them and the recipe of the denoiser, the stages are those of the compared model."""
    for stage in STAGES:
        plain, fields = (
            parse(CONFIGS / stage / f"{name}.yaml") for name in ("e2e_small", "e2e_small_fields")
        )
        data = fields["data"]["init_args"]
        assert data["corpus"]["init_args"].pop("source_separator") == "],"
        assert plain["data"]["init_args"]["corpus"]["init_args"].pop("source_separator") is None
        assert data.pop("max_source_length_tokens") == 60
        assert plain["data"]["init_args"].pop("max_source_length_tokens") == 44
        for config in (plain, fields):
            if stage == "denoiser":
                corpus = config["data"]["init_args"]["corpus"]["init_args"]
                corpus.pop("generated"), corpus.pop("train_on")
                config["model"]["init_args"].pop("optimizer")
                config["model"]["init_args"]["autoencoder"]["init_args"].pop("path")
                config["model"]["init_args"]["denoiser"]["init_args"].pop("prediction_type")
                config["trainer"].pop("max_steps")
            config["trainer"]["logger"]["init_args"].pop("version")
        assert plain == fields


def test_infilling_changes_the_denoiser_alone(parse):
    plain, infill = (parse(CONFIGS / "denoiser" / name) for name in ("e2e.yaml", "e2e_infill.yaml"))
    shape = infill["model"]["init_args"]["denoiser"]["init_args"]
    assert shape.pop("infill_prob") == 0.5
    assert plain["model"]["init_args"]["denoiser"]["init_args"].pop("infill_prob") == 0
    for config in (plain, infill):
        config["trainer"]["logger"]["init_args"].pop("version")
    assert plain == infill


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_baselines_see_the_data_of_the_latent_model(parse, path):
    """Same records, lengths and tokenizer: only then can families be compared."""
    data = path.stem.split("_")[0]
    baseline, denoiser = parse(path), parse(CONFIGS / "denoiser" / f"{data}_small.yaml")
    mine, theirs = (
        config["data"]["init_args"] | {"batch_size": 0} for config in (baseline, denoiser)
    )
    if not TOKENS[data][1]:
        mine["max_source_length_tokens"] = theirs["max_source_length_tokens"]  # without a say
    assert mine == theirs
    for name in ("optimizer", "lr_schedule"):
        assert baseline["model"]["init_args"][name] == denoiser["model"]["init_args"][name]


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("data", TOKENS)
def test_compared_models_have_equal_sizes_and_budgets(parse, data):
    """Within 5 % in parameters, 2 % in training operations (the latent model is counted apart)."""
    autoencoder, denoiser = (parse(CONFIGS / stage / f"{data}_small.yaml") for stage in STAGES)
    sizes = autoencoder["model"]["init_args"]["autoencoder"]["init_args"]
    compressor = TextAutoencoder(**sizes | {"vocab_size": 2048})
    shape = denoiser["model"]["init_args"]["denoiser"]["init_args"]
    latent_denoiser = LatentDenoiser(**shape | {"latent_dim": sizes["latent_dim"]})
    parameters = {"latent": num_parameters(compressor) + num_parameters(latent_denoiser)}
    flops = {}
    for path in BASELINES:
        if not path.stem.startswith(data):
            continue
        config = parse(path)
        family = config["model"]["init_args"]["token_model"]
        model_class = getattr(baselines, family["class_path"].split(".")[-1])
        model = model_class(**family["init_args"] | {"vocab_size": 2048})
        parameters[path.stem] = num_parameters(model)
        num_text, num_source = TOKENS[data]
        batch = {name: torch.full((1, num_text), 7) for name in ("input_ids", "attention_mask")}
        if num_source:
            batch |= {
                name: torch.full((1, num_source), 7) for name in ("source_ids", "source_mask")
            }
        with FlopCounterMode(display=False) as counter:
            model.loss(token_batch(batch, end_token_id=1)).backward()
        num_rows = config["trainer"]["max_steps"] * config["data"]["init_args"]["batch_size"]
        flops[path.stem] = counter.get_total_flops() * num_rows
    assert max(parameters.values()) / min(parameters.values()) < 1.05, parameters
    assert min(flops.values()) > 3.95e13, flops
    assert max(flops.values()) < 4.05e13, flops


# Of a step of each stage on ParaDetox, as `CountTrainingFLOPs` found them in its training.
PARADETOX_FLOPS = {"autoencoder": 35_030_827_008, "denoiser": 70_111_985_664}


def test_autoregressive_rewriting_equals_the_latent_one_in_size_and_budget(parse):
    """Same data, parameters of both stages within 5 %, training operations within 2 %."""
    stages = {stage: parse(CONFIGS / stage / "paradetox.yaml") for stage in STAGES}
    config = parse(CONFIGS / "baselines" / "paradetox_autoregressive.yaml")
    mine, theirs = (
        one["data"]["init_args"] | {"batch_size": 0} for one in (config, stages["denoiser"])
    )
    assert mine == theirs
    sizes = stages["autoencoder"]["model"]["init_args"]["autoencoder"]["init_args"]
    shape = stages["denoiser"]["model"]["init_args"]["denoiser"]["init_args"]
    vocab_size = {"vocab_size": 4096}
    latent = num_parameters(TextAutoencoder(**sizes | vocab_size))
    latent += num_parameters(LatentDenoiser(**shape | {"latent_dim": sizes["latent_dim"]}))
    family = config["model"]["init_args"]["token_model"]["init_args"]
    model = baselines.AutoregressiveModel(**family | vocab_size)
    assert num_parameters(model) == pytest.approx(latent, rel=0.05)

    names = ("input_ids", "attention_mask", "source_ids", "source_mask")
    batch = {name: torch.full((1, 32), 7) for name in names}
    with FlopCounterMode(display=False) as counter:
        model.loss(token_batch(batch, end_token_id=1)).backward()
    num_rows = config["trainer"]["max_steps"] * config["data"]["init_args"]["batch_size"]
    flops = sum(PARADETOX_FLOPS[name] * stages[name]["trainer"]["max_steps"] for name in STAGES)
    assert counter.get_total_flops() * num_rows == pytest.approx(flops, rel=0.02)


PLACES = ["", "trainer", "data.init_args", "model.init_args.optimizer.init_args"]


@pytest.mark.parametrize(
    ("path", "place"),
    [(path, "model.init_args") for path in FILES] + [(FILES[0], place) for place in PLACES],
)
def test_a_misspelt_key_is_refused(main, tmp_path, path, place):
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
def fit_stages(main, tmp_path, monkeypatch):
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


def test_tiny_overlays_train_a_step(fit_stages, main):
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
