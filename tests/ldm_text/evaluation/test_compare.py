import csv
import json
from statistics import mean, stdev

import pytest
import yaml

from ldm_text.baselines import AutoregressiveModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.data.records import TextRecord
from ldm_text.evaluation import compare as compare_module
from ldm_text.evaluation import comparison
from ldm_text.evaluation.comparison import spread_out
from ldm_text.generated_rows import generate_rows
from ldm_text.loading import load_pipeline

ROWS = [
    {"source": "name[The Mill]", "target": "The Mill.", "references": ["The Mill.", "A mill."]},
    {"source": "name[Zizzi]", "target": "Zizzi is a pub.", "references": ["Zizzi is a pub."]},
    {"source": "name[Aromi]", "target": "Aromi.", "references": ["Aromi.", "Aromi is a pub."]},
]
FIGURES = {
    "network_calls",
    "seconds_per_text",
    "seconds_to_first_text",
    "tokens_per_second",
    "saturated_seconds_per_text",
    "saturated_tokens_per_second",
    "bleu",
    "generative_perplexity",
    "unigram_entropy",
    "train_4gram_overlap",
}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def autoregressive_folder(toy_tokenizer, activate, tmp_path):
    model = AutoregressiveModel(len(toy_tokenizer), hidden_dim=32, num_layers=1, num_heads=2)
    folder = tmp_path / "autoregressive"
    TokenPipeline(toy_tokenizer, activate(model).eval(), 16, 24).save_pretrained(folder)
    return folder


@pytest.fixture
def options(pipeline_folder, autoregressive_folder, data):
    """Options of a comparison of two generators at two settings each, as YAML holds them."""
    return {
        "data": str(data),
        "training_data": str(data),
        "scorer": str(autoregressive_folder),
        "seeds": [0, 1],
        "precision": "float32",
        "num_likelihood_draws": 1,
        "timing": {"num_rows": 1, "batch_sizes": [2]},
        "generators": [
            {
                "name": "latent",
                "pipeline": str(pipeline_folder),
                "sweeps": [{"num_inference_steps": [1, 2], "guidance_scale": [1.0]}],
            },
            {
                "name": "autoregressive",
                "pipeline": str(autoregressive_folder),
                "sweeps": [{"sampling": {"temperature": [0.5, 1.0]}}, {"seeds": [3]}],
            },
        ],
    }


@pytest.fixture
def compare(main, options, tmp_path):
    def run(*arguments, **changes):
        (tmp_path / "compare.yaml").write_text(yaml.safe_dump(options | changes))
        output = tmp_path / "comparison"
        return main(
            "compare", "--config", tmp_path / "compare.yaml", "--output", output, *arguments
        )

    return run


@pytest.fixture
def read_table(tmp_path):
    def read():
        return json.loads((tmp_path / "comparison" / "compare.json").read_text())

    return read


@pytest.fixture
def points_measured(monkeypatch):
    """List the points of generators that are measured, in place of those that are kept."""
    points = []
    monkeypatch.setattr(compare_module, "draw_plots", lambda rows: [])  # they take their time

    class Stopwatch(comparison.Stopwatch):
        def __init__(self, pipeline, prompts, point, precision):
            super().__init__(pipeline, prompts, point, precision)
            points.append(point)

    monkeypatch.setattr(comparison, "Stopwatch", Stopwatch)
    return points


def test_the_table_holds_each_setting_the_reference_text_and_the_controls(
    compare, read_table, options, tmp_path
):
    code, _, error = compare()
    assert code == 0, error
    table = read_table()
    rows = table["rows"]
    texts = ["reference text", "training text", "periodic text", "independent words"]
    own = [("latent", 1, {}), ("latent", 2, {})]
    own += [("autoregressive", None, {"temperature": value}) for value in (0.5, 1.0)]
    own += [("autoregressive", None, {})]
    found = [(row["name"], row["num_inference_steps"], row["sampling"]) for row in rows]
    assert found == [(name, None, {}) for name in texts] + own
    assert [row["seeds"] for row in rows] == [[0, 1]] * 8 + [[3]]
    for row in rows[4:]:
        assert row["figures"].keys() >= FIGURES
        assert len(row["examples"]) == 3
    for row in rows[:4]:
        assert row["figures"].keys() & FIGURES == {n for n in FIGURES if "_text" not in n} - {
            "network_calls",
            "tokens_per_second",
            "saturated_tokens_per_second",
        }
    for row in rows[:8]:
        for figure in row["figures"].values():
            assert figure["mean"] == pytest.approx(mean(figure["values"]))
            assert figure["standard_error"] == pytest.approx(stdev(figure["values"]) / 2**0.5)
    assert rows[8]["figures"]["bleu"]["standard_error"] is None
    calls = [row["figures"]["network_calls"]["mean"] for row in rows[4:6]]
    assert calls == [1, 2]
    likelihoods = [generator["likelihood"]["kind"] for generator in table["generators"]]
    assert likelihoods == [None, "exact"]

    latent = load_pipeline(tmp_path / "pipeline")
    sources = [row["source"] for row in ROWS]
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "precision": "float32"}
    texts = [row.text for row in next(generate_rows(latent, sources, seed=0, **settings))]
    assert [example["text"] for example in rows[5]["examples"]] == texts

    with (tmp_path / "comparison" / "compare.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [row["name"] for row in rows]
    assert float(lines[5]["bleu"]) == rows[5]["figures"]["bleu"]["mean"]
    assert lines[8]["bleu_standard_error"] == ""
    assert [line["temperature"] for line in lines[6:]] == ["0.5", "1.0", ""]
    page = (tmp_path / "comparison" / "compare.html").read_text()
    assert page.count("<svg") == 7  # two measures of quality, three costs, and the frontier
    assert list((tmp_path / "comparison").glob("events.out.tfevents.*"))


def test_what_has_been_measured_is_kept_until_something_changes(
    compare, read_table, points_measured, options, data
):
    del options["generators"][1]["sweeps"]  # its own settings
    latent = options["generators"][0]["sweeps"][0]
    assert compare()[0] == 0
    first = read_table()
    assert len(points_measured) == 3
    assert compare()[0] == 0
    assert read_table() == first
    assert len(points_measured) == 3

    latent["num_inference_steps"] = [2, 3]
    assert compare()[0] == 0
    assert [point.num_inference_steps for point in points_measured[3:]] == [3]
    assert read_table()["rows"][4] == first["rows"][5]

    latent["num_inference_steps"] = [2]
    data.write_text(data.read_text().replace("is a pub", "is a bar"))
    assert compare()[0] == 0
    assert len(points_measured) == 6
    assert compare("--overwrite")[0] == 0
    assert len(points_measured) == 8


def test_what_the_texts_are_judged_by_is_measured_anew(
    compare, read_table, points_measured, options, embedder, tmp_path, monkeypatch
):
    """Rows of other scores were kept, where scorer or embedder had the same name."""
    del options["generators"][0]
    del options["generators"][0]["sweeps"]
    folder = tmp_path / "embedder"
    folder.mkdir()
    monkeypatch.setattr(compare_module.SentenceEmbedder, "from_pretrained", lambda _: embedder)
    monkeypatch.setattr("ldm_text.evaluation.evaluator.mauve", lambda *_: 0.5)
    for number, changes in enumerate(
        (
            {"scorer_sees_source": True, "weights": "A"},
            {"scorer_sees_source": False, "weights": "A"},
            {"scorer_sees_source": False, "weights": "B"},
        )
    ):
        (folder / "model.safetensors").write_text(changes.pop("weights"))
        for _ in range(2):
            code, _, error = compare(embedder=str(folder), **changes)
            assert code == 0, error
            assert len(points_measured) == number + 1
    assert read_table()["about"]["scorer"]["sees_source"] is False


def test_data_without_sources_are_compared_as_sets(compare, read_table, options, data):
    """The reference row holds the texts that the generators are not measured by."""
    del options["generators"][0]
    del options["generators"][0]["sweeps"]
    code, _, error = compare("--max_rows", 2, source_field=None, scorer=None)
    assert code == 0, error
    rows = read_table()["rows"]
    assert "bleu" not in rows[4]["figures"]
    assert [example["text"] for example in rows[0]["examples"]] == ["Aromi."]
    assert all(example["source"] is None for row in rows for example in row["examples"])


def test_records_are_chosen_at_equal_distances():
    records = [TextRecord(str(number)) for number in range(7)]
    chosen, others = spread_out(records, 3)
    assert [record.text for record in chosen] == ["0", "2", "4"]
    assert [record.text for record in others] == ["1", "3", "5", "6"]
    assert spread_out(records, None) == spread_out(records, 9) == (records, [])


def with_sweep(**sweep):
    def change(options):
        options["generators"][0]["sweeps"] = [sweep]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_sweep(num_inference_step=[4]), "Option 'num_inference_step' is not accepted."),
        (with_sweep(num_inference_steps=["x"]), "`--num_inference_steps`: expected int, got x."),
        (with_sweep(num_inference_steps=[]), "Generator `latent`: `num_inference_steps` must hold"),
        (with_sweep(seeds=[3, 3]), "Generator `latent`: `seeds` must hold each value once"),
        (with_sweep(guidance_scale=[1, 2, 1]), "`guidance_scale` must hold each value once"),
        (lambda options: options.update(seeds=[3, 3, 3]), "`--seeds` must hold each value once"),
        (with_sweep(seeds=[-1]), "Generator `latent`: `seeds` must all be 0 or larger, got (-1,)."),
        (with_sweep(num_inference_steps=[0]), "Generator `latent`: `num_inference_steps` must be"),
        (with_sweep(sampling={"temperature": [1]}), "Generator `latent`: `--sampling.temperature`"),
        (lambda options: options.update(generators=[]), "`--generators` must have different names"),
        (
            lambda options: options["generators"][0].update(name="autoregressive"),
            "`--generators` must have different names",
        ),
        (
            lambda options: options["generators"][1].update(sweeps=[]),
            "Generator `autoregressive`: `sweeps` must hold at least one sweep",
        ),
        (
            lambda options: options["generators"][1].update(
                sweeps=[{"sampling": {"temperature": [-1.0]}}]
            ),
            "Generator `autoregressive`: `temperature` must be",
        ),
        (
            lambda options: options["generators"][1].update(sweeps=[{"num_inference_steps": [4]}]),
            "Generator `autoregressive`: `num_inference_steps` has no effect",
        ),
        (
            lambda options: options["generators"][1].update(pipeline="nowhere"),
            "There is no pipeline folder `nowhere`",
        ),
        (lambda options: options.update(timing={"num_rows": 0}), "`num_rows` must be at least 1"),
        (lambda options: options.update(data="nowhere"), "`--data`: No such file or folder"),
        (
            lambda options: options.update(scorer=options["generators"][0]["pipeline"]),
            "is a latent pipeline: it has no likelihood to score by",
        ),
        (lambda options: options.update(max_rows=0), "`--max_rows` must be at least 1, got 0."),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_measured(
    compare, options, tmp_path, change, message
):
    change(options)
    code, printed, error = compare()
    assert (code, printed) == (2, "")
    assert error.startswith("ldm-text: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.glob("comparison/*"))


def test_a_file_that_is_no_table_is_not_replaced(compare, tmp_path):
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison" / "compare.json").write_text('{"notes": 3}')
    code, _, error = compare()
    assert code == 2
    assert "is no table of `ldm-text compare`" in error
    assert (tmp_path / "comparison" / "compare.json").read_text() == '{"notes": 3}'
