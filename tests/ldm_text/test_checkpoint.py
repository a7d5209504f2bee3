import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from denoiser.model import LatentDenoiser
from ldm_text.checksums import CHECKSUMS, write_checksums
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
        ({"denoiser": ["denoiser.model", "time_features"]}, "must be a LatentDenoiser, got"),
        ({"guider": ["denoiser..", "d"]}, r"`denoiser\.\.` has no class `d`"),
        ({"scheduler": ["transformers", "AutoModel"]}, "`scheduler` must be a SchedulerMixin"),
        ({"scheduler": ["diffusers.loaders.ip_adapter", "torch"]}, "has no class `torch`"),
        ({"_class_name": ["evil", "Pipeline"]}, "`_class_name` must be LatentTextPipeline, got"),
        ({"max_length_tokens": 10**9}, "must be an integer of at most 65536, got 1000000000"),
        ({"max_length_tokens": True}, "must be an integer of at most 65536, got True"),
        (
            {"max_length_tokens": "GONE"},
            "`max_length_tokens` must be an integer of at most .*, got None",
        ),
        ({"max_source_length_tokens": 2.5}, r"`max_source_length_tokens` must be .* got 2\.5"),
        ({"scheduler": ["diffusers", "NoSuchScheduler"]}, "has no class `NoSuchScheduler`"),
    ],
)
def test_a_wrong_index_is_named(pipeline_folder, refused, change, message):
    edit_json(pipeline_folder / "model_index.json", **change)
    refused(ValueError, message)


def test_a_wrong_value_in_a_scheduler_is_named(pipeline_folder, refused):
    path = pipeline_folder / "scheduler" / "scheduler_config.json"
    edit_json(path, shift="wide")
    refused(ValueError, r"scheduler_config\.json`: `shift` must be a number of .*, got 'wide'")
    edit_json(path, shift=4.0, num_train_timesteps=10**9)
    refused(ValueError, "`num_train_timesteps` must be a number of at most 1000000, got 10000000")
    edit_json(path, num_train_timesteps=1000, shift_terminal=[None])
    refused(ValueError, r"scheduler_config\.json` describes no scheduler: ")
    edit_json(path, shift=-1, shift_terminal=None)
    refused(ValueError, r"scheduler_config\.json`: `shift` must be a positive number, got -1")
    edit_json(path, shift=float("nan"))
    refused(ValueError, r"scheduler_config\.json` is not JSON: NaN is no value of JSON")


def test_an_option_of_a_wrong_kind_is_named(pipeline_folder, refused):
    """It showed as a TypeError in the first step of sampling."""
    edit_json(pipeline_folder / "guider" / "guider_config.json", guidance_rescale=None)
    refused(
        ValueError,
        r"guider_config\.json`: `guidance_rescale` must be a number of at most .* got None",
    )
    edit_json(pipeline_folder / "guider" / "guider_config.json", guidance_rescale=0, start=True)
    refused(ValueError, r"guider_config\.json`: `start` must be a number of .*, got True")


@pytest.mark.parametrize("value", [None, -0.1, "auto"])
def test_a_wrong_option_of_the_pipeline_is_named(pipeline_folder, refused, value):
    edit_json(pipeline_folder / "model_index.json", clamp_start=value)
    refused(ValueError, f"`clamp_start` must be a number between 0 and 1, got {value}")


@pytest.mark.parametrize("value", ["", 5, ["],"]])
def test_a_wrong_separator_of_sources_is_named(pipeline_folder, refused, value):
    edit_json(pipeline_folder / "model_index.json", source_separator=value)
    refused(ValueError, r"`source_separator` must be text or null, got ")


def test_a_tokenizer_with_an_option_of_a_wrong_kind_is_named(pipeline_folder, refused):
    path = pipeline_folder / "tokenizer" / "tokenizer_config.json"
    edit_json(path, model_max_length="auto")
    refused(ValueError, "The tokenizer in .* cannot be read")


def test_code_in_a_folder_is_refused(pipeline_folder, refused):
    """diffusers imports a file that the index names as the module of a part."""
    (pipeline_folder / "denoiser" / "evil.py").write_text("raise SystemExit('was run')")
    refused(ValueError, r"evil\.py`: a pipeline folder holds no code")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 10**9}, "`num_layers` is 1000000000, more than the weights can have"),
        ({"hidden_dim": 10**12}, "`hidden_dim` is 1000000000000, more than the weights can have"),
        ({"num_layers": -1}, "denoiser` does not fit its config"),
        ({"num_heads": 0}, "describes no model|must be"),
        ({"hidden_dim": [[]]}, "describes no model"),
    ],
)
def test_a_model_larger_than_its_weights_is_not_built(pipeline_folder, refused, change, message):
    edit_json(pipeline_folder / "denoiser" / "config.json", **change)
    refused(ValueError, message)


def test_json_that_is_deep_or_long_is_named(pipeline_folder, refused):
    path = pipeline_folder / "guider" / "guider_config.json"
    path.write_text("[" * 100_000)
    refused(ValueError, r"guider_config\.json` is not JSON")
    path.write_text(json.dumps({"name": "x" * 2_000_000}))
    refused(ValueError, r"guider_config\.json` is too large for its kind")
    with (pipeline_folder / "tokenizer" / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 30)  # takes no room
    path.write_text("{}")
    refused(ValueError, r"tokenizer\.json is too large")


def test_weights_of_whole_numbers_are_refused(pipeline_folder, refused):
    """They were converted, and the texts were wrong."""
    path = pipeline_folder / "denoiser" / WEIGHTS
    weights = load_file(path)
    save_file({name: value.to(torch.int8) for name, value in weights.items()}, path)
    refused(ValueError, "must be one of F64, F32, F16, BF16, got I8")


def test_a_header_that_promises_more_than_the_file_holds_is_refused(pipeline_folder, refused):
    path = pipeline_folder / "denoiser" / WEIGHTS
    header = {"null_latent": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    header = json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    refused(ValueError, "is not a safetensors file, or is cut")
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(64))
    refused(ValueError, "is not a safetensors file, or is cut")


@pytest.mark.parametrize("name", ["../../elsewhere.safetensors", "other.safetensors", "/dev/zero"])
def test_a_list_of_weight_files_names_files_of_its_folder(pipeline_folder, refused, name):
    path = pipeline_folder / "denoiser" / f"{WEIGHTS}.index.json"
    path.write_text(json.dumps({"weight_map": {"null_latent": name}}))
    refused(ValueError, "must name weight files of its folder, got `")


def test_checksums_find_any_flipped_bit_and_missing_file(pipeline_folder, refused):
    write_checksums(pipeline_folder)
    LatentTextPipeline.from_pretrained(pipeline_folder)
    for part in (f"denoiser/{WEIGHTS}", "tokenizer/tokenizer.json", "model_index.json"):
        path = pipeline_folder / part
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) * 3 // 4] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is not as it was written|is not JSON|not decode"):
            LatentTextPipeline.from_pretrained(pipeline_folder)
        path.write_bytes(whole)
    (pipeline_folder / "tokenizer" / "tokenizer_config.json").unlink()
    refused(ValueError, r"tokenizer_config\.json` is missing: fetch the folder again")


@pytest.mark.parametrize("line", ["x", f"{'0' * 64}  ../../etc/passwd", f"{'0' * 64}  /etc/passwd"])
def test_a_list_of_checksums_stays_in_its_folder(pipeline_folder, refused, line):
    (pipeline_folder / CHECKSUMS).write_text(f"{line}\n")
    refused(ValueError, "SHA256SUMS`, line 1: expected a checksum and a file in the folder")


def test_a_tokenizer_of_larger_ids_is_refused(pipeline_folder, refused):
    path = pipeline_folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    vocab[last] = 10**6
    path.write_text(json.dumps(content))
    refused(ValueError, "tokenizer writes ids up to 1000000")
