"""Configurations agree in all that they should not change: stages, overlays, compared families."""

from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSIFIERS = sorted(CONFIGS.glob("classifiers/*.yaml"))
STAGES = ("autoencoder", "denoiser")
BASELINES = sorted(
    path
    for path in CONFIGS.glob("baselines/*_*.yaml")
    # The teacher is larger, as it is no part of the comparison; ParaDetox has a test of its own.
    if path.stem not in ("e2e_teacher", "paradetox_autoregressive")
)


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
    if data == "tinystories":
        mine["max_source_length_tokens"] = theirs["max_source_length_tokens"]  # without a say
    assert mine == theirs
    for name in ("optimizer", "lr_schedule"):
        assert baseline["model"]["init_args"][name] == denoiser["model"]["init_args"][name]
