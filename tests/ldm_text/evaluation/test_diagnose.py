import json
import re
import shutil

import pytest
import torch

from ldm_text.data.records import TextRecord
from ldm_text.evaluation.autoencoder_diagnosis import LEAST_TEXTS, TIMES
from ldm_text.evaluation.diagnose import recommend_noise_shift
from ldm_text.evaluation.diagnosis import Diagnosis
from ldm_text.generated_rows import row_generator

TEXTS = [
    "The Mill is a pub.",
    "The Mill is a nice pub.",
    "It is cheap.",
    "It is near the river.",
    "The Vaults is cheap.",
    "The Punter is a pub.",
    "a coffee shop",
    "It is nice. It is a pub.",
    "The Vaults is a nice pub. It is near the river. The Punter is a coffee shop." * 3,
]
ORIGINS = ("clean", "noised", "predicted", "sampled")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"source": f"name[{text[:8]}]", "target": text} for text in TEXTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def diagnose(main, pipeline_folder, data, tmp_path):
    options = {
        "pipeline": pipeline_folder,
        "data": data,
        "output": tmp_path / "diagnosis.json",
        "num_inference_steps": 3,
        "batch_size": 3,
    }

    def run(**changes):
        given = {name: value for name, value in (options | changes).items() if value is not None}
        pairs = [(f"--{name}", value) for name, value in given.items()]
        return main("diagnose", *[part for pair in pairs for part in pair])

    return run


@pytest.fixture
def report(tmp_path):
    return lambda: json.loads((tmp_path / "diagnosis.json").read_text())


def make_diagnosis(pipeline, **options):
    return Diagnosis(pipeline, [TextRecord(text) for text in TEXTS], **options)


def test_the_report_has_all_parts_and_they_agree(diagnose, report, tmp_path):
    code, _, error = diagnose()
    assert code == 0, error
    found = report()
    assert found["about"]["num_texts"] == len(TEXTS) - 1
    assert found["about"]["num_too_long"] == 1
    decoder = found["decoder"]
    assert list(decoder) == list(ORIGINS)
    clean = decoder["clean"]["cross_entropy"]
    same = [decoder["noised"][0], decoder["predicted"][0], found["interventions"]["matched"]]
    assert [part["cross_entropy"] for part in same] == [pytest.approx(clean, rel=1e-4)] * 3
    assert len(decoder["noised"]) == len(decoder["predicted"]) == len(TIMES)
    assert len(found["prediction_norm"]["steps"]) == 3
    assert len(found["denoiser_error"]) == 10
    assert found["spectrum"]["num_channels"] == 8
    assert found["midpoints"]["num_pairs"] == 4
    assert "imauve" not in found["midpoints"]


def test_the_page_shows_all_plots_and_needs_nothing_else(diagnose, tmp_path):
    assert diagnose()[0] == 0
    page = (tmp_path / "diagnosis.html").read_text()
    names = re.findall(r'<figure data-plot="([^"]+)" data-points="(\d+)"', page)
    assert len(names) == 7
    assert all(
        int(points) == page.split(f'data-plot="{name}"')[1].split("</figure>")[0].count("<title>")
        for name, points in names
    )
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "The Mill is a pub." in page
    assert "$" not in page.split("<script>")[0]


def test_a_run_is_repeatable_and_does_not_depend_on_batches(pipeline):
    first, second = (make_diagnosis(pipeline, batch_size=size) for size in (3, 64))
    for part in ("noised", "interventions", "denoiser_error", "predicted"):
        values = [json.loads(json.dumps(getattr(one, part)())) for one in (first, second)]
        assert flat(values[0]) == pytest.approx(flat(values[1]), abs=1e-4, nan_ok=False)
    sampled = [one.sample(2, None)[0] for one in (first, second)]
    assert torch.allclose(*sampled, atol=1e-4)


def test_samples_are_not_clamped(make_pipeline):
    """Clamped latents are those that the encoder gives a text, whatever the pipeline's own way."""
    pipeline = make_pipeline(clamp_start=0.0)
    diagnosis = make_diagnosis(pipeline)
    sampled, _ = diagnosis.sample(2, None)

    def latents(clamp_start):
        count = len(diagnosis.texts)
        generators = [row_generator(0, row, 0, pipeline.device) for row in range(count)]
        options = {"num_inference_steps": 2, "output_type": "latent", "clamp_start": clamp_start}
        return pipeline(diagnosis.sources, generator=generators, **options).latents

    assert torch.allclose(sampled, latents(1.0), atol=1e-4)
    assert not torch.allclose(sampled, latents(0.0), atol=1e-2)


@pytest.mark.parametrize("options", [{}, {"source_field": "null", "text_field": "target"}])
def test_an_autoencoder_alone_is_diagnosed_as_within_its_pipeline(
    diagnose, report, pipeline_folder, tmp_path, options
):
    assert diagnose(**options)[0] == 0
    whole = report()
    changes = {"pipeline": pipeline_folder / "autoencoder", "num_inference_steps": None} | options
    code, _, error = diagnose(**changes)
    assert code == 0, error
    found = report()
    assert list(found["decoder"]) == ["clean", "noised"]
    for part in ("interventions", "spectrum", "midpoints"):
        assert found[part] == whole[part]
    assert found["noise_shift"]["recommended"] == whole["noise_shift"]["recommended"]
    assert found["noise_shift"]["current"] is None
    page = (tmp_path / "diagnosis.html").read_text()
    assert len(re.findall(r"<figure data-plot=", page)) == 5
    assert "An autoencoder alone has none." in page


def flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in flat(part)]
    return [] if value is None else [value]


def test_texts_without_sources_are_diagnosed_too(diagnose, report, tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    options = {"data": path, "text_field": "text", "source_field": "null"}
    assert diagnose(**options, long_texts="truncate", max_rows=6)[0] == 0
    assert report()["about"]["num_texts"] == 6


def test_midpoint_texts_are_compared_with_texts_that_are_no_ends(pipeline, embedder, monkeypatch):
    compared = []

    def record(features, reference):
        compared.append((features, reference))
        return 0.5

    monkeypatch.setattr("ldm_text.evaluation.autoencoder_diagnosis.mauve", record)
    found = make_diagnosis(pipeline).midpoints(embedder)
    assert found["imauve"] == found["imauve_ceiling"] == 0.5
    ends, held_out = (embedder.embed(TEXTS[start:8:2]) for start in (0, 1))
    assert (compared[1][0] == ends).all()
    assert all((reference == held_out).all() for _, reference in compared)
    assert {example["text"] for example in found["examples"]} <= set(TEXTS[:8:2])


def curve(accuracies):
    return [{"t": t, "token_accuracy": value} for t, value in zip(TIMES, accuracies, strict=True)]


def test_the_recommended_line_is_ready_to_paste():
    linear_at_4, linear_at_9 = (
        curve([0.1 + 0.8 * (1 - t / (t + shift * (1 - t))) for t in TIMES]) for shift in (4, 9)
    )
    found = recommend_noise_shift(linear_at_4, linear_at_9, 2.0)
    assert found["config_line"] == "noise_shift: 4"
    assert found["recommended"] == pytest.approx(4, rel=1e-3)
    assert found["recommended_from_predictions"] == pytest.approx(9, rel=1e-3)
    assert found["current"] == 2


def test_nothing_is_recommended_where_latents_are_read_no_better_than_noise():
    found = recommend_noise_shift(curve([0.1] * len(TIMES)), curve([0.1] * len(TIMES)), 2.0)
    assert found["recommended"] is found["config_line"] is found["information"] is None


def test_input_that_cannot_be_diagnosed_is_refused_in_one_line(
    diagnose, token_pipeline_folder, pipeline_folder, tmp_path
):
    alone = tmp_path / "alone"
    shutil.copytree(pipeline_folder / "autoencoder", alone)
    for changes, message in (
        ({"pipeline": pipeline_folder / "autoencoder"}, "`--num_inference_steps` has no effect"),
        ({"pipeline": alone, "num_inference_steps": None}, "the tokenizer of the autoencoder"),
        ({"pipeline": token_pipeline_folder}, "must be a latent pipeline, got AutoregressiveModel"),
        ({"output": tmp_path / "page.html"}, "must be no HTML file"),
        ({"max_rows": LEAST_TEXTS - 1}, "needs at least 4 texts"),
        ({"seed": -1}, "`--seed` must be at least 0"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be between 1 and 1000"),
    ):
        code, _, error = diagnose(**changes)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
