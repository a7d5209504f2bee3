"""A compiled pipeline writes what an uncompiled one writes, and compiles few graphs."""

import pytest
import torch

from autoencoder.latent_space import latent_space_id
from denoiser.latent_classifier import LatentClassifier
from ldm_text.baselines import MaskedDiffusionModel
from ldm_text.baselines.pipeline import TokenPipeline
from ldm_text.compilation import job_batch_sizes
from ldm_text.known_tokens import nothing_known
from ldm_text.stopping import TokenPatience

PROMPTS = ["name[The Mill]", None, "", "The Punter is a coffee shop near the river.", "a pub"]


class GraphCounter:
    """A backend that leaves graphs as they are and counts them."""

    def __init__(self):
        self.num_graphs = 0

    def __call__(self, graph, example_inputs):
        self.num_graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    torch.compiler.reset()


@pytest.fixture
def pipeline(make_pipeline, make_denoiser, activate):
    """A pipeline that takes known latents and has a classifier."""
    made = make_pipeline(denoiser=make_denoiser(infill_prob=0.5).eval())
    name = latent_space_id(made.autoencoder)
    classifier = LatentClassifier(8, "tone", ["low", "high"], name, 32, 1, 2)
    made.classifiers = {"tone": activate(classifier).eval().requires_grad_(False)}
    return made


@pytest.fixture
def token_pipeline(toy_tokenizer):
    model = MaskedDiffusionModel(len(toy_tokenizer), hidden_dim=32, num_layers=1, num_heads=2)
    return TokenPipeline(toy_tokenizer, model, 16, 24)


def generate(pipeline, rows=range(5), **options):
    generators = [torch.Generator().manual_seed(row) for row in rows]
    options = {"num_inference_steps": 4} | options
    return pipeline([PROMPTS[row] for row in rows], generator=generators, **options)


def assert_same(output, expected):
    assert output.texts == expected.texts
    assert torch.equal(output.sequences, expected.sequences)
    torch.testing.assert_close(output.latents, expected.latents, rtol=1e-4, atol=1e-4)
    assert output.row_network_calls == expected.row_network_calls


def known_tokens():
    """Four first tokens of each text, which are a latent, and one in its middle."""
    known = nothing_known(len(PROMPTS), 16)
    known.ids[:, :4], known.ids[:, 9] = torch.tensor([20, 30, 40, 50]), 60
    known.is_known[:, :4] = known.is_known[:, 9] = True
    return known


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_scale": 1.0},
        {"clamp_start": 0.3},
        {"known_tokens": known_tokens(), "self_correction": 0.5},
        {"attributes": {"tone": ("high", 4.0)}},
        {"num_inference_steps": 12, "stop_patience": 1},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_texts_are_the_same_compiled_and_filled_up(pipeline, options):
    expected = generate(pipeline, **options)
    if "stop_patience" in options:
        assert len(set(expected.row_network_calls)) > 1
    pipeline.compile([2, 8], backend="aot_eager")
    assert_same(generate(pipeline, **options), expected)


def test_weights_that_are_cast_once_for_autocast_change_nothing(pipeline):
    with torch.autocast("cpu", torch.bfloat16):
        expected = generate(pipeline)
        pipeline.compile([5], backend="eager")
        assert_same(generate(pipeline), expected)
    assert pipeline.denoiser.transformer.blocks[0].attention.qkv.cast_weight is not None


def test_a_text_is_the_same_in_any_batch(pipeline):
    pipeline.compile([1, 4], backend="aot_eager")
    batch = generate(pipeline)  # in two parts
    for row, text in enumerate(batch.texts):
        assert generate(pipeline, [row]).texts == [text]
        assert generate(pipeline, [row, 0]).texts == [text, batch.texts[0]]


def test_smaller_batches_other_steps_and_scales_compile_nothing_new(pipeline):
    counter = GraphCounter()
    pipeline.compile([4], backend=counter)
    generate(pipeline, [0, 1, 2, 4])
    assert counter.num_graphs == 3  # encoder, denoiser, decoder
    generate(pipeline, [0], num_inference_steps=3, guidance_scale=2.0)  # the last of a job
    generate(pipeline, [0, 1, 2, 4, 0], num_inference_steps=5, clamp_start=1.0)
    assert counter.num_graphs == 3
    generate(pipeline, [0, 1, 2, 4], guidance_scale=1.0)
    assert counter.num_graphs == 4  # the denoiser on one branch


def first_is_done(patience, ids, confidence):
    return torch.arange(len(ids)) < 1


def test_texts_that_leave_a_batch_compile_one_graph_a_size(pipeline, monkeypatch):
    monkeypatch.setattr(TokenPatience, "update", first_is_done)
    counter = GraphCounter()
    pipeline.compile([2, 5], backend=counter)
    assert generate(pipeline, stop_patience=1).row_network_calls == [1, 2, 3, 4, 4]
    # Encoder and decoder at the size of the batch, the denoiser also at that of the last two.
    assert counter.num_graphs == 4


def test_a_pipeline_is_saved_as_if_it_were_not_compiled(pipeline, tmp_path):
    expected = generate(pipeline)
    pipeline.compile([8], backend="eager")
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = type(pipeline).from_pretrained(tmp_path / "saved")
    assert_same(generate(loaded), expected)


def test_a_job_compiles_for_its_batches_and_for_what_is_left_of_them():
    assert job_batch_sizes(64, rows_leave=False) == (64,)
    assert job_batch_sizes(64, rows_leave=True) == (16, 64)
    assert job_batch_sizes(1, rows_leave=True) == (1, 1)


def test_no_sizes_and_baselines_are_refused(pipeline, token_pipeline):
    with pytest.raises(ValueError, match="`batch_sizes` must hold at least one size"):
        pipeline.compile([])
    with pytest.raises(ValueError, match="`compile` is for latent pipelines: MaskedDiffusion"):
        token_pipeline.compile()


def test_a_job_with_a_baseline_is_refused_before_it_begins(main, token_pipeline, tmp_path):
    token_pipeline.save_pretrained(tmp_path / "masked")
    options = ("--pipeline", tmp_path / "masked", "--compile", "true")
    code, printed, error = main("generate", *options)
    assert (code, printed) == (2, "")
    assert error == (
        "ldm-text: error: `compile` is for latent pipelines: MaskedDiffusionModel generates "
        "uncompiled.\n"
    )


@pytest.mark.slow
def test_a_job_writes_the_same_texts_with_code_of_inductor(main, pipeline_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("name[The Mill]\na pub\nname[The Vaults], area[riverside]\n")
    written = []
    for name in ("false", "true"):
        output = tmp_path / f"{name}.jsonl"
        options = {"pipeline": pipeline_folder, "prompts": prompts, "output": output}
        options |= {"compile": name, "batch_size": 2, "precision": "float32"}
        code, _, error = main("generate", *(x for k, v in options.items() for x in (f"--{k}", v)))
        assert code == 0, error
        written.append(output.read_text())
    assert written[0] == written[1]
    assert written[0].count("\n") == 3
