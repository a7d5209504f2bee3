"""What all generators promise, whatever their family."""

import math
import re

import pytest
import torch

from ldm_text.loading import load_pipeline
from tests.ldm_text.baselines.families import FAMILIES

PROMPTS = ["name[The Mill]", "", None, "The Punter is a coffee shop."]


def own_generators(count, seed=0):
    return [torch.Generator().manual_seed(100 * seed + row) for row in range(count)]


def test_texts_stand_in_the_order_of_the_prompts_samples_side_by_side(generator):
    output = generator.generate(PROMPTS, 2, own_generators(8))
    assert len(output.texts) == len(output.sequences) == 8
    assert output.num_network_calls > 0
    for row, prompt in enumerate(PROMPTS):
        for sample in range(2):
            place = 2 * row + sample
            source = own_generators(8)[place : place + 1]
            assert generator.generate([prompt], 1, source).texts == [output.texts[place]]


def test_the_seed_decides(generator):
    first = generator.generate(PROMPTS, 1, own_generators(4))
    again = generator.generate(PROMPTS, 1, own_generators(4))
    other = generator.generate(PROMPTS, 1, own_generators(4, seed=1))
    assert first.texts == again.texts
    assert torch.equal(first.sequences, again.sequences)
    assert first.texts != other.texts


def test_nothing_stands_behind_the_end_and_no_special_token_in_a_text(generator):
    output = generator.generate(PROMPTS, 4, own_generators(16))
    is_pad = output.sequences == generator.tokenizer.pad_token_id
    assert (is_pad.diff(dim=1).int() >= 0).all()  # a pad token is followed by pad tokens only
    assert not (output.sequences == generator.tokenizer.eos_token_id).any()
    assert not any("<|" in text for text in output.texts)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "`prompt` is an empty list"),
        ([3], {}, "must be a string, a list of strings and None, or None, got int"),
        (["a"], {"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        (["a"], {"generator": []}, "must hold one entry for each of the 1 texts, got 0"),
        (["The Mill " * 40], {}, r"prompt\[0\] has .*\d+ tokens, the model takes at most 23"),
    ],
)
def test_bad_prompts_are_refused(generator, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(prompts, **options)


def test_a_long_prompt_is_cut_where_asked(generator):
    assert len(generator.generate(["The Mill " * 40], truncate=True).texts) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_back_the_same_generator(make_token_pipeline, tmp_path, family):
    pipeline = make_token_pipeline(family)
    pipeline.save_pretrained(tmp_path / "pipeline")
    loaded = load_pipeline(tmp_path / "pipeline")
    for name, weight in pipeline.token_model.state_dict().items():
        assert torch.equal(weight, loaded.token_model.state_dict()[name])
    assert loaded.name_or_path == str(tmp_path / "pipeline")
    texts = pipeline.generate(PROMPTS, 1, own_generators(4)).texts
    assert loaded.generate(PROMPTS, 1, own_generators(4)).texts == texts
    assert not list(tmp_path.rglob("*.bin"))


def test_an_unknown_option_is_refused(make_token_pipeline):
    """An option that a family does not know is named together with those it knows."""
    pipeline = make_token_pipeline()
    with pytest.raises(ValueError, match=r"`guidance_scale` has no effect: AutoregressiveModel"):
        pipeline.generate(["a"], guidance_scale=2.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "`model_index.json` is missing"),
        (lambda f: (f / "token_model" / "config.json").unlink(), "`config.json` is missing"),
        (
            lambda f: next((f / "token_model").glob("*.safetensors")).unlink(),
            "safetensors` is missing",
        ),
        (
            lambda f: (f / "model_index.json").write_text(
                (f / "model_index.json")
                .read_text()
                .replace("ldm_text.baselines.autoregressive", "ldm_text.cli")
            ),
            "`ldm_text.cli` has no class `AutoregressiveModel`",
        ),
    ],
)
def test_a_damaged_folder_is_refused(make_token_pipeline, tmp_path, damage, message):
    folder = tmp_path / "pipeline"
    make_token_pipeline().save_pretrained(folder)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_pipeline(folder)


WRONG_VALUES = [
    ("autoregressive", {"temperature": -1}, "`temperature` must be 0 or larger and finite"),
    ("autoregressive", {"temperature": "abc"}, "`temperature` must be a number, got 'abc'."),
    ("autoregressive", {"temperature": math.nan}, "`temperature` must be 0 or larger and finite"),
    ("autoregressive", {"temperature": math.inf}, "`temperature` must be 0 or larger and finite"),
    ("autoregressive", {"use_cache": "abc"}, "`use_cache` must be true or false, got 'abc'."),
    ("autoregressive", {"num_inference_steps": 3}, "`num_inference_steps` has no effect: Auto"),
    ("masked", {"top_p": 0}, "`top_p` must be larger than 0 and at most 1, got 0."),
    ("masked", {"sampler": "luck"}, "`sampler` must be one of ancestral, first_hitting, "),
    ("masked", {"sampler": [1]}, "`sampler` must be one of ancestral, first_hitting, "),
    ("masked", {"block_length": 0.5}, "`block_length` must be a whole number, got 0.5."),
    ("masked", {"block_length": 0}, "`block_length` must be 1 or larger, got 0."),
    ("masked", {"entropy_bound": -1.0}, "`entropy_bound` must be 0 or larger, got -1.0."),
    ("masked", {"eta": 2}, "`eta` must be between 0 and 1, got 2."),
    ("masked", {"guidance_scale": math.inf}, "`guidance_scale` must be a finite number, got inf."),
    ("masked", {"num_inference_steps": 0}, "`num_inference_steps` must be between 1 and 1000"),
    ("embedding_diffusion", {"clamp_start": True}, "`clamp_start` must be a number, got True."),
]


WRONG_TOGETHER = [  # texts of 16 tokens, blocks of 4
    ("masked", {"eta": 0.5}, "`eta` has no effect with the sampler 'ancestral'."),
    ("masked", {"sampler": "random", "num_inference_steps": 17}, "must be at most the number of"),
    ("masked", {"sampler": "first_hitting", "num_inference_steps": 9}, "`num_inference_steps` has"),
    ("masked", {"sampler": "confidence", "block_length": 5}, "`block_length` must divide the num"),
    (
        "masked",
        {"sampler": "confidence", "block_length": 4, "num_inference_steps": 6},
        "`num_inference_steps` must be a multiple of the number of blocks, 4, got 6.",
    ),
    ("block_diffusion", {"num_inference_steps": 3}, "at least the number of blocks, 4, got 3."),
    (
        "block_diffusion",
        {"sampler": "confidence", "num_inference_steps": 17},
        "must be at most the number of tokens of a text with this sampler, 16, got 17.",
    ),
    (
        "block_diffusion",
        {"sampler": "first_hitting", "num_inference_steps": 14},
        "`num_inference_steps` has no effect with the sampler 'first_hitting'",
    ),
]


@pytest.mark.parametrize(("family", "options", "message"), WRONG_VALUES + WRONG_TOGETHER)
def test_wrong_values_are_refused_before_any_work(make_token_pipeline, family, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_token_pipeline(family).check_inputs(["a"], **options)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("d3pm_absorbing", "num_train_steps"),
        ("uniform", "num_train_steps"),
        ("embedding_diffusion", "num_train_timesteps"),
    ],
)
def test_more_steps_than_the_model_has_are_refused_before_any_work(
    make_token_pipeline, family, name
):
    pipeline = make_token_pipeline(family, **{name: 8})
    pipeline.check_inputs(["a"], num_inference_steps=8)
    with pytest.raises(ValueError, match=r"`num_inference_steps` must be at most .* 8, got 9"):
        pipeline.check_inputs(["a"], num_inference_steps=9)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_option_of_a_sampler_is_checked(make_token_pipeline, family):
    pipeline = make_token_pipeline(family)
    for name in pipeline.sampler_options:
        with pytest.raises(ValueError, match=f"`{name}` must be "):
            pipeline.check_inputs(["a"], **{name: {}})


def test_a_wrong_value_is_refused_before_the_output_is_begun(make_token_pipeline, main, tmp_path):
    """It was found when the journal stood, and the corrected command then refused."""
    make_token_pipeline("masked").save_pretrained(tmp_path / "pipeline")
    arguments = [
        "generate",
        "--pipeline",
        tmp_path / "pipeline",
        "--output",
        tmp_path / "out.jsonl",
    ]
    for option, value, message in (
        ("--sampling.temperature", "-1", "`temperature` must be"),
        ("--sampling.temperature", "abc", "`temperature` must be"),
        ("--sampling.eta", "0.5", "`eta` has no effect with the sampler 'ancestral'"),
        ("--control.trace", tmp_path / "trace.html", "`trace` works on latents"),
    ):
        code, printed, error = main(*arguments, option, value)
        assert (code, printed, error.count("\n")) == (2, "", 1)
        assert message in error
    assert not list(tmp_path.glob("out*"))
