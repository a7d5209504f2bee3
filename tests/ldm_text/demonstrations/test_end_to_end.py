"""A task from its data to its table, with models of toy size."""

import json
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[3] / "configs" / "demonstrations"
TINY = {
    "autoencoder": ["--model.init_args.autoencoder.init_args.hidden_dim", 32],
    "denoiser": ["--model.init_args.denoiser.init_args.hidden_dim", 48],
    "autoregressive": ["--model.init_args.token_model.init_args.hidden_dim", 48],
}


@pytest.mark.slow
def test_both_models_of_a_task_are_trained_and_scored(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDM_TEXT_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        code, printed, error = main(*arguments)
        assert code == 0, error
        return printed

    sizes = ["--num_train", 200, "--num_validation", 10]
    run("make_task", "--task", "lists", "--output", "generated/lists", *sizes)
    fields = ["--text_field", "target", "--source_field", "source", "--vocab_size", 400]
    words = ["--data", "generated/lists/train.jsonl", "--output", "tokenizers/lists"]
    run("train_tokenizer", *words, *fields)
    common = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 1]
    common += ["--trainer.precision", "32-true", "--model.init_args.compile_network", "false"]
    # Of a tokenizer of 400 tokens the names of the items take several.
    common += ["--data.init_args.batch_size", 8, "--data.init_args.max_length_tokens", 128]
    for stage, width in TINY.items():
        files = [CONFIGS / f"{task}_{stage}.yaml" for task in ("arithmetic", "lists")]
        run("fit", "-c", files[0], "-c", files[1], *common, *width)
    validation = "generated/lists/validation.jsonl"
    for stage, options in (
        ("denoiser", ["--num_inference_steps", 2, "--guidance_scale", 2]),
        ("autoregressive", ["--sampling.temperature", 0]),
    ):
        checkpoint = f"logs/{stage}/lists/checkpoints/last.ckpt"
        run("export", "--ckpt_path", checkpoint, "--output", stage)
        texts = f"{stage}.jsonl"
        options += ["--prompts", validation, "--precision", "float32", "--output", texts]
        run("generate", "--pipeline", stage, *options)
        files = ["--data", validation, "--texts", texts, "--output", f"{stage}.json"]
        printed = run("score_task", "--task", "lists", *files)
        assert len(printed.splitlines()) == 1 + 1 + 5  # head, all, five lengths
        report = json.loads(Path(f"{stage}.json").read_text())
        assert report["groups"]["all"]["num_sources"] == 10
        assert set(report["targets"].values()) == {1.0}
