import json

import pytest
import torch

from ldm_text.baselines import AutoregressiveModel, MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.labels import Labels, labelled_prompts
from ldm_text.loading import load_pipeline

TOPICS = Labels("topic", ("Sports", "Sci/Tech"))
CALL = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture
def labelled(make_pipeline):
    return make_pipeline(labels=TOPICS.to_config())


@pytest.fixture
def folder(labelled, tmp_path):
    labelled.save_pretrained(tmp_path / "labelled")
    return tmp_path / "labelled"


@pytest.fixture
def generate(main, folder, tmp_path):
    """Run the command; return its records, or its one line if it is refused."""

    def run(*arguments):
        output = tmp_path / "out.jsonl"
        common = ["--pipeline", folder, "--num_inference_steps", 2, "--precision", "float32"]
        code, _, error = main("generate", *common, "--output", output, "--start_over", *arguments)
        if code:
            assert error.count("\n") == 1
            return error
        return [json.loads(line) for line in output.read_text().splitlines()]

    return run


def seeded(number=3):
    return torch.Generator().manual_seed(number)


def test_a_label_is_written_before_the_source():
    assert labelled_prompts(TOPICS, [None, "a"], "Sports") == ["topic: Sports", "topic: Sports\na"]
    assert labelled_prompts(TOPICS, ["a", "b"], [None, "Sci/Tech"]) == ["a", "topic: Sci/Tech\nb"]
    assert labelled_prompts(None, ["a"], None) == ["a"]


def test_label_and_source_together_are_a_prompt(labelled):
    whole = labelled.generate(["topic: Sports\nThe Mill"], generator=seeded(), **CALL).latents
    joined = labelled.generate(["The Mill"], generator=seeded(), label="Sports", **CALL).latents
    other = labelled.generate(["The Mill"], generator=seeded(), label="Sci/Tech", **CALL).latents
    assert torch.equal(whole, joined)
    assert not torch.allclose(joined, other, atol=1e-3)


def test_no_label_is_the_unconditional_model(labelled, make_pipeline):
    options = {"generator": seeded(), **CALL}
    assert labelled.generate([None], **options).latents.isfinite().all()


@pytest.mark.parametrize("model_class", [AutoregressiveModel, MaskedDiffusionModel])
def test_baselines_take_labels_the_same_way(toy_tokenizer, activate, model_class, tmp_path):
    model = activate(model_class(len(toy_tokenizer), hidden_dim=32, num_layers=1, num_heads=2))
    TokenPipeline(toy_tokenizer, model.eval(), 16, 24, TOPICS.to_config()).save_pretrained(tmp_path)
    pipeline = load_pipeline(tmp_path)
    texts = [
        pipeline.generate([prompt], generator=seeded(), label=label).texts
        for prompt, label in (("topic: Sports\na", None), ("a", "Sports"))
    ]
    assert texts[0] == texts[1]
    with pytest.raises(ValueError, match="must begin with its topic"):
        pipeline.generate(["a"])


def test_labels_are_kept_in_the_folder(folder):
    assert json.loads((folder / "model_index.json").read_text())["labels"] == TOPICS.to_config()
    pipeline = load_pipeline(folder)
    with pytest.raises(ValueError, match=r"no topic 'Weather'; those there are Sports, Sci/Tech"):
        pipeline.generate([None], label="Weather")


def test_a_folder_with_damaged_labels_is_refused(folder):
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for labels in (3, {"name": "topic"}, {"name": "topic", "names": ["a", "a"]}):
        path.write_text(json.dumps(index | {"labels": labels}))
        with pytest.raises(ValueError, match=r"labels|There must be several"):
            load_pipeline(folder)


def test_one_label_for_all_rows(generate):
    records = generate("--num_samples", 2, "--control.label", "Sports")
    assert [row["source"] for row in records] == ["topic: Sports"] * 2


def test_a_field_of_the_prompts_names_their_labels(generate, tmp_path):
    prompts = tmp_path / "in.jsonl"
    rows = [{"source": "The Mill", "about": "Sports"}, {"source": "It", "about": "Sci/Tech"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--prompts", prompts, "--control.label_field", "about"]
    joint = [row["source"] for row in generate(*arguments)]
    assert joint == ["topic: Sports\nThe Mill", "topic: Sci/Tech\nIt"]
    alone = [row["source"] for row in generate(*arguments, "--source_field", "null")]
    assert alone == ["topic: Sports", "topic: Sci/Tech"]
    assert "must begin with its topic" in generate("--prompts", prompts)
    prompts.write_text(json.dumps(rows[0] | {"about": "Weather"}) + "\n")
    assert "there is no topic 'Weather'" in generate(*arguments)


def test_unknown_labels_are_refused_before_any_computation(generate, main, pipeline_folder):
    assert "there is no topic 'Weather'" in generate("--control.label", "Weather")
    both = ["--control.label", "Sports", "--control.label_field", "x"]
    assert "exclude each other" in generate(*both)
    for option in ("label", "label_field"):
        arguments = ["generate", "--pipeline", pipeline_folder, f"--control.{option}", "x"]
        code, _, error = main(*arguments)
        assert code == 2
        assert "the model was trained without labels" in error


@pytest.mark.parametrize(
    ("name", "names"),
    [("", ["a", "b"]), ("a:b", ["a", "b"]), ("a", ["b"]), ("a", ["b", "b"]), ("a", ["b\nc", "d"])],
)
def test_words_that_cannot_be_labels_are_refused(name, names):
    with pytest.raises(ValueError, match=r"Labels must be|There must be several"):
        Labels(name, tuple(names))
