import json
import re
from dataclasses import replace

import pytest

from ldm_text.baselines import MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.control.candidates import Candidate, WriteOptions, write_candidates
from ldm_text.control.request import TextRequest, around_gap, plan_text
from ldm_text.control.template import parse_template
from ldm_text.control.trace import write_trace
from ldm_text.control.write import write_texts
from ldm_text.generated_rows import TextSettings

OPTIONS = WriteOptions(settings=TextSettings(num_inference_steps=5, precision="float32"))


def frames_of(path):
    page = path.read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data[1])["frames"]


def test_a_trace_has_a_frame_a_step_and_ends_with_the_text(pipeline, tmp_path):
    path = tmp_path / "out.html"
    request = TextRequest(around_gap("The Mill"), "name[<b>]")
    text = write_trace(path, pipeline, request, OPTIONS)
    assert text == write_texts(pipeline, [request], OPTIONS)[0].text
    frames = frames_of(path)
    assert len(frames) == 5
    last = "".join(token for token, _, _ in frames[-1])
    assert last == text or "\ufffd" in last + text  # a token may be part of a character
    known = [token for token, probability, is_known in frames[0] if is_known]
    assert "".join(known) == "The Mill"
    assert all(0 <= probability <= 1 for frame in frames for _, probability, _ in frame)


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_a_trace_shows_the_first_candidate_with_any_seed(pipeline, tmp_path, seed):
    """Its lengths were those of seed 0."""
    options = replace(OPTIONS, settings=replace(OPTIONS.settings, seed=seed))
    parts = tuple(parse_template("The [MASK] is [MASK] pub"))
    request = TextRequest(parts, "name[<b>]", row=3)
    planned = plan_text(pipeline, request, options.constraints, 8, seed + 3)
    first = write_candidates(pipeline, [planned], [Candidate(0, 0, planned.layouts[0])], options)
    assert write_trace(tmp_path / "out.html", pipeline, request, options) == first.texts[0]


def test_the_page_needs_nothing_else_and_runs_nothing_of_a_text(pipeline, tmp_path):
    path = tmp_path / "out.html"
    request = TextRequest(around_gap("</script>"), "name[<b>]")
    write_trace(path, pipeline, request, OPTIONS)
    page = path.read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=", page)
    assert "name[&lt;b&gt;]" in page
    assert page.count("</script>") == page.count("<script")


def test_a_model_without_latents_has_no_trace(toy_tokenizer, tmp_path):
    model = MaskedDiffusionModel(vocab_size=300, hidden_dim=16, num_layers=1, num_heads=2)
    with pytest.raises(
        ValueError, match=r"`trace` works on latents, and MaskedDiffusionModel has none"
    ):
        write_trace(tmp_path / "a", TokenPipeline(toy_tokenizer, model, 16, 24), TextRequest())
