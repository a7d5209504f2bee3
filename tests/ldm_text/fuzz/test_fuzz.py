"""Any bytes in any file: a right answer, or one line that says what is wrong."""

import importlib.util
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldm_text.checksums import write_checksums
from ldm_text.pipeline import LatentTextPipeline
from ldm_text.prompts import tokenize_prompts
from ldm_text.tokenizer import encode_text

spec = importlib.util.spec_from_file_location("targets", Path(__file__).with_name("targets.py"))
targets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(targets)

# FUZZ_EXAMPLES=10000 searches longer than a test run should.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
)
few = settings(fuzz, max_examples=max(10, EXAMPLES // 4))

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**9, -1, 0, 2**63, "auto", "__class__", "../../x"]),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=10), values, max_size=3)
    ),
    max_leaves=6,
)
json_lines = st.lists(
    st.dictionaries(st.sampled_from(["text", "source", "x"]), json_values, max_size=3)
    .map(json.dumps)
    .map(str.encode)
    | st.binary(max_size=40),
    max_size=5,
).map(b"\n".join)


@st.composite
def damaged(draw, whole):
    """Flip bits of a file, cut it, or put bytes into its middle."""
    content = bytearray(whole)
    for place in draw(st.lists(st.integers(0, len(content) * 8 - 1), max_size=4)):
        content[place // 8] ^= 1 << place % 8
    kind = draw(st.sampled_from(["flip", "cut", "insert"]))
    place = draw(st.integers(0, len(content)))
    if kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = draw(st.binary(min_size=1, max_size=9))
    return bytes(content)


@fuzz
@given(data=st.tuples(st.binary(min_size=2, max_size=2), json_lines | st.binary()).map(b"".join))
def test_files_of_records(data, tmp_path):
    targets.records(data, tmp_path)


@pytest.mark.parametrize("name", ["json", "template", "checksums", "checkpoint", "tokenizer"])
def test_files_of_any_bytes(name, tmp_path):
    fuzz(given(data=st.binary(max_size=200))(lambda data: targets.TARGETS[name](data, tmp_path)))()


@fuzz
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_comes_back_from_its_tokens(text, toy_tokenizer):
    assert toy_tokenizer.decode(encode_text(toy_tokenizer, text)) == text


@fuzz
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    repeats=st.sampled_from([1, 1000]),
    length=st.integers(2, 40),
)
def test_a_prompt_is_cut_or_refused_as_if_all_of_it_were_tokenized(
    prompt, repeats, length, toy_tokenizer
):
    prompt = prompt * repeats
    ids = encode_text(toy_tokenizer, prompt)
    [row] = tokenize_prompts(toy_tokenizer, [prompt], length, truncate=True)
    assert len(row) == min(len(ids), length - 1) + 1
    was_refused = targets.refused(lambda: tokenize_prompts(toy_tokenizer, [prompt], length))
    assert was_refused == (len(ids) > length - 1)


def test_a_prompt_of_a_hundred_megabytes_is_refused_at_once(toy_tokenizer):
    prompt = "The Vaults " * 10_000_000
    with pytest.raises(ValueError, match="has more than 31 tokens, the model takes at most 31"):
        tokenize_prompts(toy_tokenizer, [prompt], 32)
    assert len(tokenize_prompts(toy_tokenizer, [prompt], 32, truncate=True)[0]) == 32


@few
@given(data=st.data())
def test_damaged_checkpoints_are_refused_or_the_same(data, tmp_path):
    content = {"weight": torch.arange(300.0), "step": torch.tensor(3)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    targets.exact_checkpoint(data.draw(damaged(buffer.getvalue())), tmp_path, content)


PARTS = [
    "model_index.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "autoencoder/config.json",
    "autoencoder/diffusion_pytorch_model.safetensors",
    "denoiser/config.json",
    "scheduler/scheduler_config.json",
    "guider/guider_config.json",
]


@pytest.fixture
def spoil(pipeline_folder, tmp_path):
    """Replace a part of a pipeline, load the pipeline, and let it write."""

    def run(part, content, has_checksums):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(pipeline_folder, copy)
        whole = (copy / part).read_bytes()
        if has_checksums:
            write_checksums(copy)
        (copy / part).write_bytes(content)

        def write():
            pipeline = LatentTextPipeline.from_pretrained(copy)
            pipeline("The", num_inference_steps=2, generator=torch.Generator().manual_seed(0))

        was_refused = targets.refused(write)
        assert was_refused or not has_checksums or content == whole

    return run


@few
@given(data=st.data(), part=st.sampled_from(PARTS), has_checksums=st.booleans())
def test_a_pipeline_with_a_damaged_part(data, part, has_checksums, spoil, pipeline_folder):
    spoil(part, data.draw(damaged((pipeline_folder / part).read_bytes())), has_checksums)


@few
@given(data=st.data(), part=st.sampled_from([part for part in PARTS if "config" in part]))
def test_a_pipeline_with_wrong_values(data, part, spoil, pipeline_folder):
    content = json.loads((pipeline_folder / part).read_text())
    name = data.draw(st.sampled_from([*content, "extra"]))
    content[name] = data.draw(json_values)
    spoil(part, json.dumps(content).encode(), False)


@few
@given(data=st.data())
def test_a_pipeline_with_wrong_names(data, spoil, pipeline_folder):
    index = json.loads((pipeline_folder / "model_index.json").read_text())
    name = data.draw(st.sampled_from([*index, "extra"]))
    modules = ["diffusers", "transformers", "ldm_text.cli", "os", "denoiser.model", "", ".."]
    classes = ["main", "AutoModel", "DDIMScheduler", "__name__", "LatentDenoiser", "system"]
    entry = st.tuples(st.sampled_from(modules), st.sampled_from(classes)).map(list)
    index[name] = data.draw(entry | json_values)
    spoil("model_index.json", json.dumps(index).encode(), False)


@few
@given(
    content=st.binary(max_size=60)
    | json_values.map(yaml.safe_dump).map(str.encode)
    | st.sampled_from([b"[" * 100_000, b"a: " * 3000, b"a: &a [*a]", b"x: ${x}", b"---\n---\n"])
)
def test_a_configuration_of_any_bytes_is_one_line(content, call_main, tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(content)
    assert call_main("fit", "-c", tmp_path / "config.yaml") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("ldm-text: error: ")
