from types import SimpleNamespace

import pytest
import torch

from denoiser import LitDecoderAdaptation, LossOptions
from denoiser.training import LitDenoiser
from ldm_text.callbacks import LogTexts, decode_rows, markdown_table


def test_table_has_a_row_a_line_whatever_the_texts_hold():
    table = markdown_table(["a", "b"], [("x|y", "1\n2\r\n3"), ("", "z")])
    assert table.split("\n") == ["| a | b |", "| --- | --- |", "| x\\|y | 1 2 3 |", "|  | z |"]


def test_only_real_tokens_are_decoded(toy_tokenizer):
    ids = torch.tensor(toy_tokenizer(["The Mill", "a pub!?"], padding=True)["input_ids"])
    mask = ids != toy_tokenizer.pad_token_id
    assert decode_rows(toy_tokenizer, ids, mask) == ["The Mill", "a pub!?"]


@pytest.fixture
def row_batch(toy_tokenizer):
    """Rows as the data module makes them; the second source was cut inside a character."""

    def encode(texts, length):
        rows = [[*toy_tokenizer(text)["input_ids"][: length - 1], 1] for text in texts]
        mask = torch.tensor([[i < len(row) for i in range(length)] for row in rows])
        return torch.tensor([row + [0] * (length - len(row)) for row in rows]), mask

    input_ids, attention_mask = encode(["a pub.", "The Mill"], 16)
    source_ids, source_mask = encode(["name[The Mill]", "\u20ac" * 20], 24)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    return batch | {"source_ids": source_ids, "source_mask": source_mask}


@pytest.fixture
def datamodule(toy_tokenizer):
    return SimpleNamespace(
        tokenizer=toy_tokenizer,
        max_length_tokens=16,
        max_source_length_tokens=24,
        corpus=SimpleNamespace(source_separator=None),
    )


@pytest.fixture
def generate_texts(pipeline, datamodule, row_batch):
    """Let the callback generate for the rows; return its table and what was logged."""
    logged = {}
    module = LitDenoiser(
        lambda latent_dim: pipeline.denoiser, pipeline.autoencoder, optimizer=torch.optim.AdamW
    )
    module.log = lambda name, value, **_: logged.update({name: value})

    def run(batch=row_batch, **options):
        callback = LogTexts(num_inference_steps=2, **options)
        callback.on_validation_batch_end(None, module, None, batch, 0)
        return callback.generations(module, datamodule).split("\n"), logged

    return run


def test_cut_sources_do_not_stop_the_training(generate_texts, row_batch, toy_tokenizer):
    """The text of cut ids can have more ids than the cut left, which the pipeline refuses."""
    source = decode_rows(toy_tokenizer, row_batch["source_ids"], row_batch["source_mask"])[1]
    assert len(toy_tokenizer(source)["input_ids"]) > 23
    table, logged = generate_texts()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| name[The Mill]", f"| {source}"]
    assert 0 <= logged["val/bleu"] <= 100


def test_texts_without_sources_have_no_bleu(generate_texts, row_batch):
    targets = {name: row_batch[name] for name in ("input_ids", "attention_mask")}
    table, logged = generate_texts(targets)
    assert len(table) == 4
    assert logged == {}


def test_texts_are_the_same_at_each_validation_and_only_some_are_shown(generate_texts):
    first, again = (generate_texts(num_shown=1)[0] for _ in range(2))
    assert first == again
    assert len(first) == 3


@pytest.mark.parametrize(
    ("weight", "given", "scale"), [(0.0, None, 3.0), (0.5, None, 1.0), (0.5, 2.0, 2.0)]
)
def test_a_denoiser_is_sampled_as_its_export_is(pipeline, datamodule, weight, given, scale):
    """One that has guidance folded in was once guided again."""
    module = LitDenoiser(
        lambda latent_dim: pipeline.denoiser,
        pipeline.autoencoder,
        optimizer=torch.optim.AdamW,
        loss_options=LossOptions(guidance_weight=weight),
    )
    sampled = LogTexts(guidance_scale=given).pipeline_of(module, datamodule)
    assert sampled.default_guidance_scale == scale


def test_an_adapted_decoder_is_sampled_with_the_guidance_of_its_training(pipeline, datamodule):
    pretrained = SimpleNamespace(
        denoiser=pipeline.denoiser, autoencoder=pipeline.autoencoder, noise_shift=4.0
    )
    module = LitDecoderAdaptation(pretrained, torch.optim.AdamW, guidance_scale=1.5)
    assert LogTexts().pipeline_of(module, datamodule).default_guidance_scale == 1.5
