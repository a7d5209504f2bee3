"""A pipeline is saved and loaded, takes prompts and gives texts."""

import json
from itertools import pairwise

import pytest
import torch
from diffusers.utils import logging as diffusers_logging

from denoiser.schedulers import make_scheduler
from ldm_text.pipeline import LatentTextPipeline

# Saving and loading


def test_a_loaded_pipeline_writes_the_same_texts(run, pipeline_folder, mixed_prompts, generators):
    saved = run()
    loaded = LatentTextPipeline.from_pretrained(pipeline_folder)
    output = loaded(mixed_prompts, num_inference_steps=3, generator=generators())
    assert len(set(saved.texts)) == 4
    assert output.texts == saved.texts
    assert torch.equal(output.latents, saved.latents)


def test_a_saved_pipeline_names_its_parts_and_holds_no_pickle(pipeline_folder):
    index = json.loads((pipeline_folder / "model_index.json").read_text())
    assert index["_class_name"] == "LatentTextPipeline"
    assert index["autoencoder"] == ["autoencoder.model", "TextAutoencoder"]
    assert index["denoiser"] == ["denoiser.model", "LatentDenoiser"]
    assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert index["guider"] == ["diffusers", "ClassifierFreeGuidance"]
    assert index["tokenizer"][0] == "transformers"
    assert (index["max_length_tokens"], index["max_source_length_tokens"]) == (16, 24)
    files = {str(path.relative_to(pipeline_folder)) for path in pipeline_folder.rglob("*.*")}
    assert files == {
        "model_index.json",
        "autoencoder/config.json",
        "autoencoder/diffusion_pytorch_model.safetensors",
        "denoiser/config.json",
        "denoiser/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "guider/guider_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }


def test_weights_saved_in_half_precision_are_loaded_as_float32(pipeline, tmp_path):
    pipeline.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = LatentTextPipeline.from_pretrained(tmp_path)
    for network in (loaded.autoencoder, loaded.denoiser):
        assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
        assert not network.training


def test_loading_shows_nothing_and_leaves_the_progress_bars_as_they_were(pipeline_folder, capfd):
    LatentTextPipeline.from_pretrained(pipeline_folder)
    assert capfd.readouterr() == ("", "")
    assert diffusers_logging.is_progress_bar_enabled()


def test_parts_of_other_sizes_do_not_make_a_pipeline(
    make_pipeline, make_autoencoder, make_denoiser
):
    with pytest.raises(ValueError, match=r"autoencoder has 299 tokens, the tokenizer 300\."):
        make_pipeline(autoencoder=make_autoencoder(vocab_size=299))
    with pytest.raises(ValueError, match=r"has 5 as end_token_id, the tokenizer 1\."):
        make_pipeline(autoencoder=make_autoencoder(vocab_size=300, end_token_id=5))
    with pytest.raises(ValueError, match=r"autoencoder has latent_dim=8, the denoiser 6\."):
        make_pipeline(denoiser=make_denoiser(latent_dim=6))
    with pytest.raises(ValueError, match=r"`max_length_tokens` must be .* \(4\), got 18\."):
        make_pipeline(max_length_tokens=18)
    with pytest.raises(ValueError, match="`max_source_length_tokens` must be at least 1, got 0"):
        make_pipeline(max_source_length_tokens=0)


# Prompts


def test_no_prompt_is_one_unconditional_text(pipeline):
    outputs = [
        pipeline(prompt, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
        for prompt in (None, [None])
    ]
    assert len(outputs[0].texts) == 1
    assert outputs[0].texts == outputs[1].texts


def test_an_unconditional_row_ignores_guidance_and_the_other_rows(pipeline, run, generators):
    mixed = run()
    alone = pipeline(num_inference_steps=3, generator=generators([2]), guidance_scale=1.0)
    assert alone.texts == mixed.texts[2:3]
    assert torch.allclose(alone.latents[0], mixed.latents[2], atol=1e-4)


def test_an_empty_prompt_is_not_the_same_as_none(pipeline, generators):
    empty, none = (
        pipeline(prompt, num_inference_steps=3, generator=generators([1])) for prompt in ("", None)
    )
    assert not torch.allclose(empty.latents, none.latents, atol=1e-2)


def test_a_string_is_the_same_as_a_list_of_it(pipeline, generators):
    outputs = [
        pipeline(prompt, num_inference_steps=3, generator=generators([1]))
        for prompt in ("name[The Mill]", ["name[The Mill]"])
    ]
    assert outputs[0].texts == outputs[1].texts


def test_samples_of_a_prompt_stand_side_by_side(run):
    output = run(["name[The Mill]", None], num_samples=2)
    repeated = run(["name[The Mill]", "name[The Mill]", None, None])
    assert output.texts == repeated.texts
    assert len(set(output.texts)) == 4


def test_a_long_prompt_is_refused_with_its_length_and_the_limit(pipeline, toy_tokenizer):
    prompt = "a pub " * 20
    length = len(toy_tokenizer(prompt)["input_ids"])
    assert length > 23
    with pytest.raises(
        ValueError, match=rf"prompt\[1\] has {length} tokens, .* at most 23: .*a pub"
    ):
        pipeline(["short", prompt])


def test_a_long_prompt_is_cut_where_truncate_says_so(pipeline, toy_tokenizer):
    prompt = "a pub " * 20
    ids = toy_tokenizer(prompt)["input_ids"]
    assert pipeline.tokenize_prompts(["x", prompt], truncate=True)[1] == [*ids[:23], 1]
    assert len(pipeline(["x", prompt], num_inference_steps=1, truncate=True).texts) == 2


def test_the_longest_prompt_is_not_cut(pipeline, toy_tokenizer):
    prompt = "Z" * 23
    assert len(toy_tokenizer(prompt)["input_ids"]) == 23
    assert pipeline.tokenize_prompts([prompt]) == pipeline.tokenize_prompts([prompt], truncate=True)


# Output


def test_output_types_hold_the_same_text_in_three_forms(pipeline, run):
    text, seq, latent = (run(output_type=kind) for kind in ("text", "seq", "latent"))
    assert seq.texts == latent.texts == []
    assert latent.sequences is None
    assert torch.equal(text.sequences, seq.sequences)
    assert torch.equal(pipeline.decode_latents(latent.latents), seq.sequences)
    assert pipeline.texts_of(seq.sequences) == text.texts
    assert seq.sequences.shape == (4, 16)
    assert latent.latents.shape == (4, 4, 8)


def test_nothing_stands_behind_the_end_of_a_text(pipeline, monkeypatch):
    ids = torch.tensor([[7, 1, 9, 1], [1, 5, 6, 7], [5, 6, 7, 8]])
    logits = torch.nn.functional.one_hot(ids, 300).float()
    monkeypatch.setattr(pipeline.autoencoder, "decode", lambda latents: logits)
    expected = [[7, 0, 0, 0], [0, 0, 0, 0], [5, 6, 7, 8]]
    assert pipeline.decode_latents(torch.zeros(3, 1, 8)).tolist() == expected


@pytest.mark.parametrize(("name", "num_calls"), [("euler", 3), ("dpm++", 3), ("heun", 5)])
def test_callback_sees_each_prediction_on_its_way_to_the_text(pipeline, run, name, num_calls):
    pipeline.scheduler = make_scheduler(name, 4.0)
    seen = []
    output = run(callback_on_step_end=lambda *arguments: seen.append(arguments))
    assert output.num_network_calls == num_calls
    assert [step for _, step, _ in seen] == list(range(num_calls))
    assert all(caller is pipeline for caller, _, _ in seen)
    predictions = [prediction for _, _, prediction in seen]
    assert torch.allclose(predictions[-1], output.latents, atol=1e-4)
    assert not any(torch.equal(left, right) for left, right in pairwise(predictions))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "`num_inference_steps` must be between 1 and 1000, got 0"),
        ({"num_inference_steps": -4}, "`num_inference_steps` must be .* got -4"),
        ({"num_inference_steps": 1001}, "`num_inference_steps` must be .* got 1001"),
        ({"num_inference_steps": 2.5}, r"`num_inference_steps` must be .* got 2\.5"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"guidance_scale": float("nan")}, "`guidance_scale` must be a finite number, got nan"),
        ({"output_type": "pt"}, "`output_type` must be text, seq or latent, got 'pt'"),
        ({"prompt": 5}, "`prompt` must be a string, .* got int"),
        ({"prompt": ["a", 5]}, "`prompt` must be a string, .* got int"),
        ({"prompt": []}, "`prompt` is an empty list"),
        ({"prompt": ["a", "b"]}, "`generator` must hold .* 2 texts, got 4"),
        ({"num_samples": 3}, "`generator` must hold .* 12 texts, got 4"),
    ],
)
def test_wrong_arguments_are_named(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_clamping_leaves_the_latents_of_a_text_and_moves_others_onto_one(pipeline):
    latents = pipeline.prepare_latents(6, torch.Generator().manual_seed(0))
    clamped = pipeline.clamp_latents(latents)
    ids = pipeline.decode_latents(latents)
    is_text = torch.nn.functional.pad(ids != pipeline.tokenizer.pad_token_id, (1, 0), value=True)
    is_text = is_text[:, :-1]  # the text and its end token
    ids = ids.masked_fill(is_text & (ids == 0), pipeline.tokenizer.eos_token_id)
    expected = pipeline.autoencoder.statistics.standardize(
        pipeline.autoencoder.encode(ids, is_text)
    )
    torch.testing.assert_close(clamped, expected)
    assert not torch.allclose(clamped, latents)


def test_the_pipelines_own_clamp_start_is_used_unless_a_call_gives_another(pipeline, run):
    free = run().latents
    always = run(clamp_start=0.0).latents
    assert not torch.allclose(free, always)
    pipeline.register_to_config(clamp_start=0.0)
    torch.testing.assert_close(run().latents, always)
    torch.testing.assert_close(run(clamp_start=1.0).latents, free)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_clamp_start_out_of_range_is_refused(run, value):
    with pytest.raises(ValueError, match="`clamp_start` must be between 0 and 1"):
        run(clamp_start=value)
