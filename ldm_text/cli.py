"""The ``ldm-text`` command: Lightning's verbs for training, and typed functions for the rest.

Nothing heavy is imported before a command is known, so that ``--help`` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Callable

TRAINING = {
    "fit": "train an autoencoder, a denoiser or a baseline from a YAML file",
    "validate": "run the validation of a trained model",
    "test": "run the test of a trained model",
    "predict": "run the prediction of a trained model",
}
COMMANDS = {
    "generate": ("ldm_text.generate", "write texts, from prompts or unconditionally"),
    "evaluate": ("ldm_text.evaluation.evaluate", "measure a pipeline against references"),
    "export": ("ldm_text.export", "write a released folder from training checkpoints"),
    "train_tokenizer": ("ldm_text.tokenizer", "train a byte-level BPE tokenizer"),
}


def usage() -> str:
    """Describe all commands."""
    lines = ["usage: ldm-text COMMAND [OPTIONS]", "", "Text generation by diffusion in a latent space."]
    descriptions = TRAINING | {name: text for name, (_, text) in COMMANDS.items()}
    lines += ["", "commands:"] + [f"  {name:<16} {text}" for name, text in descriptions.items()]
    return "\n".join([*lines, "", "ldm-text COMMAND --help lists the options of a command."])


def main() -> None:
    """Run the command line; known errors become one line and exit code 2."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
    elif command in TRAINING:
        with_one_line_errors(run_training)
    elif command in COMMANDS:
        with_one_line_errors(lambda: run_function(command))
    else:
        names = ", ".join([*TRAINING, *COMMANDS])
        fail(f"unknown command '{command}': expected one of {names}.")


def fail(message: str, code: int = 2) -> None:
    """Print one line to standard error and leave with an exit code."""
    sys.stderr.write(f"ldm-text: error: {' '.join(message.split())}\n")
    raise SystemExit(code)


def with_one_line_errors(run: Callable[[], None]) -> None:
    """Run a command; turn errors about the user's input into one line and exit code 2."""
    try:
        run()
    except (ValueError, OSError) as error:
        if os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        fail(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        fail("interrupted.", code=130)


def run_function(name: str) -> None:
    """Run one of ``COMMANDS``: the signature of the function is the command line."""
    from jsonargparse import auto_cli

    function = getattr(importlib.import_module(COMMANDS[name][0]), name)
    parser_options = {"prog": f"ldm-text {name}", "as_positional": False}
    auto_cli(function, args=sys.argv[2:], **parser_options)


def run_training() -> None:
    """Run Lightning's command line, for every model and every data module."""
    from lightning import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    class TextCLI(LightningCLI):
        """Lightning's command line with the links between data and model."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            """Link what must agree; a link without a target in the chosen class is skipped."""
            autoencoder = "model.init_args.autoencoder.init_args"
            for name in ("vocab_size", "tokens_per_latent"):
                parser.link_arguments(f"data.{name}", f"{autoencoder}.{name}", apply_on="instantiate")

    TextCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": "omegaconf"},
        save_config_kwargs={"overwrite": True},
    )
