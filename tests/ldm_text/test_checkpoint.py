import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from denoiser.model import LatentDenoiser
from ldm_text.pipeline import LatentTextPipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def refused(pipeline_folder):
    """Expect that the folder cannot be loaded, for the stated reason."""

    def check(error_type, message):
        with pytest.raises(error_type, match=message):
            LatentTextPipeline.from_pretrained(pipeline_folder)

    return check


def edit_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "GONE"}))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pipeline folder `.*nowhere`: write one with"):
        LatentTextPipeline.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "part",
    [
        "model_index.json",
        "tokenizer/tokenizer.json",
        "autoencoder/config.json",
        f"autoencoder/{WEIGHTS}",
        "denoiser/config.json",
        f"denoiser/{WEIGHTS}",
        "scheduler/scheduler_config.json",
        "guider/guider_config.json",
    ],
)
def test_missing_part_is_named(pipeline_folder, refused, part):
    (pipeline_folder / part).unlink()
    refused(FileNotFoundError, f"is incomplete: `{part.split('/')[-1]}` is missing")


def test_missing_component_folder_is_named(pipeline_folder, refused):
    shutil.rmtree(pipeline_folder / "denoiser")
    refused(FileNotFoundError, r"`.*denoiser` is incomplete: `config\.json` is missing")


@pytest.mark.parametrize("part", ["model_index.json", "guider/guider_config.json"])
def test_a_file_that_is_not_json_is_named(pipeline_folder, refused, part):
    (pipeline_folder / part).write_text('{"cut": ')
    refused(ValueError, f"`.*{part}` is not JSON")
    (pipeline_folder / part).write_text("[1]")
    refused(ValueError, f"`.*{part}` must hold a JSON object, got list")


def test_a_damaged_tokenizer_is_named(pipeline_folder, refused):
    (pipeline_folder / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(ValueError, r"The tokenizer in .* cannot be read")


@pytest.mark.parametrize("kept", [0, 4, 200, -8])
def test_cut_weights_are_named(pipeline_folder, refused, kept):
    path = pipeline_folder / "denoiser" / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    refused(ValueError, rf"`.*denoiser/{WEIGHTS}` is not a safetensors file, or is cut")


@pytest.mark.parametrize("component", ["autoencoder", "denoiser"])
def test_weights_of_another_shape_are_named_with_both_shapes(pipeline_folder, refused, component):
    edit_json(pipeline_folder / component / "config.json", hidden_dim=48)
    message = (
        rf"`.*{component}` does not fit its config\.json: .* shape \(.*\), the file has \(.*\)"
    )
    refused(ValueError, message)


@pytest.mark.parametrize("stored", [None, "extra"])
def test_missing_and_unknown_weights_are_named(pipeline_folder, refused, stored):
    path = pipeline_folder / "denoiser" / WEIGHTS
    weights = load_file(path)
    if stored is None:
        del weights["null_latent"]
    else:
        weights[stored] = torch.zeros(3)
    save_file(weights, path, {"format": "pt"})
    message = (
        "`extra` should have the shape None, the file has" if stored else "`null_latent` should"
    )
    refused(ValueError, message)


@pytest.mark.parametrize("change", [{"latent_dim": "GONE"}, {"hidden_dim": "wide"}])
def test_a_configuration_of_no_model_is_named(pipeline_folder, refused, change):
    edit_json(pipeline_folder / "denoiser" / "config.json", **change)
    refused(ValueError, r"denoiser/config\.json` describes no model")


def test_pickled_weights_are_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert (tmp_path / "pickled" / "denoiser" / "diffusion_pytorch_model.bin").exists()
    with pytest.raises(FileNotFoundError, match=f"`{WEIGHTS}` is missing"):
        LatentTextPipeline.from_pretrained(tmp_path / "pickled")


def test_a_denoiser_of_other_latents_is_refused(pipeline_folder, refused):
    LatentDenoiser(6, hidden_dim=32, num_heads=2).save_pretrained(pipeline_folder / "denoiser")
    refused(ValueError, r"the autoencoder has latent_dim=8, the denoiser 6\.")


def test_no_foreign_module_is_imported_for_a_part(pipeline_folder, refused):
    edit_json(pipeline_folder / "model_index.json", guider=["this", "d"])
    refused(ValueError, r"describes no text pipeline: `guider` must name .*, got \['this', 'd'\]")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denoiser": "GONE"}, "`denoiser` must name a class of"),
        ({"max_length_tokens": "GONE"}, "`max_length_tokens` must be an integer, got None"),
        ({"max_source_length_tokens": 2.5}, r"`max_source_length_tokens` must be .* got 2\.5"),
        ({"scheduler": ["diffusers", "NoSuchScheduler"]}, "has no class `NoSuchScheduler`"),
    ],
)
def test_a_wrong_index_is_named(pipeline_folder, refused, change, message):
    edit_json(pipeline_folder / "model_index.json", **change)
    refused(ValueError, message)


def test_a_wrong_value_in_a_scheduler_is_named(pipeline_folder, refused):
    edit_json(pipeline_folder / "scheduler" / "scheduler_config.json", shift="wide")
    refused(ValueError, "`.*pipeline` cannot be loaded: ")
