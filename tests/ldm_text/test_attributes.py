"""Guidance of a pipeline by classifiers: their folders, their training, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from autoencoder.latent_space import latent_space_id
from denoiser.latent_classifier import LatentClassifier
from ldm_text.generated_rows import row_generator
from ldm_text.loading import load_pipeline

CONFIG = Path(__file__).parents[2] / "configs" / "classifiers" / "ag_news.yaml"
STEPS = {"num_inference_steps": 4, "guidance_scale": 1.0}


@pytest.fixture
def make_classifier(activate):
    def make(pipeline, attribute="tone", labels=("low", "high")):
        name = latent_space_id(pipeline.autoencoder)
        network = LatentClassifier(8, attribute, [*labels], name, 32, 1, 2)
        return activate(network).eval().requires_grad_(False)

    return make


@pytest.fixture
def guided(pipeline, make_classifier):
    """A pipeline with two classifiers."""
    pipeline.classifiers = {
        "tone": make_classifier(pipeline),
        "mood": make_classifier(pipeline, "mood", ("sad", "glad", "none")),
    }
    return pipeline


@pytest.fixture
def guided_folder(guided, tmp_path):
    guided.save_pretrained(tmp_path / "guided")
    return tmp_path / "guided"


def generators(rows):
    return [row_generator(0, row, 0, torch.device("cpu")) for row in rows]


def latents(pipeline, rows=range(8), **options):
    prompts = [None] * len(rows)
    return pipeline.generate(prompts, generator=generators(rows), **STEPS, **options).latents


def log_prob(pipeline, found, attribute, label):
    logits = pipeline.classifiers[attribute](found, torch.zeros(len(found)))
    return logits.log_softmax(1)[:, label].mean()


def test_guidance_raises_the_probability_of_each_attribute(guided):
    plain = latents(guided)
    for attributes in ({"tone": ("high", 8.0)}, {"tone": ("high", 8.0), "mood": ("sad", 8.0)}):
        found = latents(guided, attributes=attributes)
        for attribute in attributes:
            label = {"tone": 1, "mood": 0}[attribute]
            before, after = (log_prob(guided, each, attribute, label) for each in (plain, found))
            assert after > before + 0.05


def test_weight_0_and_no_attributes_change_nothing(guided):
    plain = latents(guided)
    for attributes in (None, {}, {"tone": ("high", 0)}):
        assert torch.equal(latents(guided, attributes=attributes), plain)
    assert not torch.equal(latents(guided, attributes={"tone": "high"}), plain)
    assert torch.equal(
        latents(guided, attributes={"tone": "high"}),
        latents(guided, attributes={"tone": ["high", 1.0]}),
    )


def test_a_text_is_the_same_alone_and_in_a_batch(guided):
    options = {"attributes": {"tone": ("high", 4.0)}, **STEPS}
    whole = guided.generate([None] * 8, generator=generators(range(8)), **options)
    alone = [guided.generate([None], generator=generators([row]), **options) for row in range(8)]
    assert whole.texts == [output.texts[0] for output in alone]


def test_classifiers_are_kept_in_the_folder(guided, guided_folder):
    loaded = load_pipeline(guided_folder)
    assert sorted(loaded.classifiers) == ["mood", "tone"]
    attributes = {"tone": ("high", 4.0), "mood": "glad"}
    assert torch.equal(
        latents(loaded, attributes=attributes), latents(guided, attributes=attributes)
    )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"taste": "high"}, "no classifier of 'taste', there are tone, mood"),
        ({"tone": "medium"}, "there is no tone 'medium'; those there are low, high"),
        ({"tone": ("high", "very")}, "the weight of tone must be a finite number"),
        ({"tone": ("high", float("nan"))}, "the weight of tone must be a finite number"),
        ({"tone": ("high",)}, "tone takes a label, or a label and a weight"),
        ("tone", "`attributes` must hold a label for each attribute"),
    ],
)
def test_unknown_attributes_and_labels_are_refused_before_any_computation(
    guided, attributes, message
):
    guided.denoiser = None  # nothing may run
    with pytest.raises(ValueError, match=message):
        guided.check_inputs([None], 1, 4, attributes=attributes)


def test_a_classifier_of_other_latents_is_refused(guided_folder, make_pipeline, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "other")
    (guided_folder / "classifiers").rename(tmp_path / "other" / "classifiers")
    with pytest.raises(ValueError, match="was made for another autoencoder"):
        load_pipeline(tmp_path / "other")


def test_a_damaged_classifier_is_refused(guided_folder):
    (guided_folder / "classifiers" / "tone" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is incomplete"):
        load_pipeline(guided_folder)


@pytest.fixture
def checkpoint(main, pipeline_folder, toy_tokenizer_folder, tmp_path, monkeypatch):
    """Train a classifier by its configuration, on labelled texts, for a few steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path / "cache"))
    texts = {"Sports": "The Mill is a pub", "World": "A coffee shop near the river"}
    rows = [{"title": f"{text} {n}", "label_name": name} for name, text in texts.items()
            for n in range(32)]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = "data.init_args.corpus.init_args"
    options = {
        f"{corpus}.train": "data.jsonl",
        f"{corpus}.validation": "data.jsonl",
        "data.init_args.tokenizer": toy_tokenizer_folder,
        "data.init_args.max_length_tokens": 16,
        "data.init_args.long_texts": "truncate",
        "data.init_args.batch_size": 32,
        "model.init_args.autoencoder.init_args.path": pipeline_folder / "autoencoder",
        "model.init_args.classifier.init_args.hidden_dim": 32,
        "model.init_args.compile_network": "false",
        "trainer.precision": "32-true",
        "trainer.max_steps": 4,
        "trainer.val_check_interval": 1,
        "trainer.log_every_n_steps": 1,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    code, _, error = main("fit", "-c", CONFIG, *arguments)
    assert code == 0, error
    return tmp_path / "logs" / "classifiers" / "ag_news" / "checkpoints" / "last.ckpt"


def test_a_trained_classifier_guides_the_pipeline_of_its_autoencoder(
    main, checkpoint, pipeline_folder, make_pipeline, tmp_path
):
    add = ["add_classifier", "--ckpt_path", checkpoint, "--pipeline"]
    assert main(*add, pipeline_folder)[0] == 0
    code, _, error = main(*add, pipeline_folder)
    assert code == 2
    assert "has a classifier of topic; pass `--overwrite`" in error
    assert main(*add, pipeline_folder, "--overwrite")[0] == 0
    assert list(load_pipeline(pipeline_folder).classifiers["topic"].config.labels) == [
        "World", "Sports", "Business", "Sci/Tech",
    ]  # fmt: skip

    common = ["--pipeline", pipeline_folder, "--num_inference_steps", 2, "--sampling"]
    assert main("generate", *common, "{attributes: {topic: Sports}}")[0] == 0
    edit = ["edit", "--text", "The Mill is a pub", "--strength", 0.5, *common]
    assert main(*edit, "{attributes: {topic: [Sports, 4]}}")[0] == 0
    code, _, error = main("generate", *common, "{attributes: {topic: Weather}}")
    assert code == 2
    assert "there is no topic 'Weather'" in error

    make_pipeline().save_pretrained(tmp_path / "other")
    code, _, error = main(*add, tmp_path / "other")
    assert code == 2
    assert "was made for another autoencoder" in error


def test_what_is_no_classifier_is_no_checkpoint_of_one(main, pipeline_folder, tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "a.ckpt")
    for name, message in (
        ("a.ckpt", "is no checkpoint of a classifier"),
        ("b.ckpt", "there is no"),
    ):
        arguments = ["--ckpt_path", tmp_path / name, "--pipeline", pipeline_folder]
        code, _, error = main("add_classifier", *arguments)
        assert code == 2
        assert message in error
