"""The ``ldm-text`` command: Lightning's verbs for training, and typed functions for the rest.

Nothing heavy is imported before a command is known, so that the list of commands comes at once.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from ldm_text.one_line import one_line

TRAINING = {
    "fit": "train an autoencoder, a denoiser, a student of few steps or a baseline from YAML",
    "validate": "run the validation of a trained model",
}
COMMANDS = {
    "add_classifier": (
        "ldm_text.add_classifier",
        "add a trained classifier to a pipeline, for guidance",
    ),
    "generate": ("ldm_text.generate", "write texts, from prompts or unconditionally"),
    "bench": ("ldm_text.evaluation.bench", "time several generators side by side, in turns"),
    "compare": ("ldm_text.evaluation.compare", "measure several generators side by side"),
    "diagnose": (
        "ldm_text.evaluation.diagnose",
        "measure the latents, the decoder and the denoiser of a pipeline",
    ),
    "edit": ("ldm_text.control.commands", "change texts, by a given strength"),
    "evaluate": (
        "ldm_text.evaluation.evaluate",
        "measure a pipeline or a file of texts against references",
    ),
    "export": ("ldm_text.export", "write a released folder from training checkpoints"),
    "infill": ("ldm_text.control.commands", "fill the gaps of texts"),
    "interpolate": ("ldm_text.control.verb_commands", "write texts between two texts"),
    "label_records": ("ldm_text.data.label_records", "join data sets of several tasks into one"),
    "make_task": ("ldm_text.demonstrations.make", "write the data of a generated task"),
    "prompt_programs": ("ldm_text.demonstrations.run", "write the prompts of HumanEval or MBPP"),
    "recombine_slots": (
        "ldm_text.meaning_representations",
        "make new sources for a teacher to write on",
    ),
    "refine": ("ldm_text.control.verb_commands", "write the weak places of texts again"),
    "run_programs": ("ldm_text.demonstrations.run", "run programs against tests, in a sandbox"),
    "score_labels": ("ldm_text.evaluation.score_labels", "tell of which classes texts are"),
    "score_rewriting": (
        "ldm_text.evaluation.score_rewriting",
        "measure rewritten texts: style, likeness, fluency",
    ),
    "score_task": ("ldm_text.demonstrations.score", "check generated texts of a task"),
    "select_texts": ("ldm_text.evaluation.select", "keep generated texts with the right slots"),
    "targets": ("ldm_text.evaluation.targets", "check result tables against targets"),
    "train_tokenizer": ("ldm_text.tokenizer", "train a byte-level BPE tokenizer"),
    "variations": ("ldm_text.control.verb_commands", "write texts near a text"),
}


def print_usage() -> None:
    """Describe all commands."""
    lines = [
        "usage: ldm-text COMMAND [OPTIONS]",
        "",
        "Text generation by diffusion in a latent space.",
    ]
    descriptions = TRAINING | {name: text for name, (_, text) in COMMANDS.items()}
    lines += ["", "commands:"] + [f"  {name:<16} {text}" for name, text in descriptions.items()]
    lines += ["", "ldm-text COMMAND --help lists the options of a command.", ""]
    sys.stdout.write("\n".join(lines))


def main() -> None:
    """Run the command line; known errors become one line and exit code 2."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        with_one_line_errors(print_usage)
    elif command in TRAINING:
        with_one_line_errors(run_training)
    elif command in COMMANDS:
        with_one_line_errors(lambda: run_function(command))
    else:
        names = ", ".join([*TRAINING, *COMMANDS])
        fail(f"unknown command '{command}': expected one of {names}.")


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to standard error and leave with an exit code."""
    sys.stderr.write(f"ldm-text: error: {one_line(message)}\n")
    raise SystemExit(code)


def with_one_line_errors(run: Callable[[], int | None]) -> None:
    """Run a command and leave with its exit code, if it returns one that is not 0.

    Errors about the user's input become one line and exit code 2.
    """
    code = None
    try:
        with messages_shown():
            code = run()
        sys.stdout.flush()  # a full disk or a closed pipe may show only now
    except (ValueError, OSError, MemoryError, RecursionError, KeyboardInterrupt) as error:
        if os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        drop_output_if_stuck()
        interrupted = isinstance(error, KeyboardInterrupt)
        message = "interrupted" if interrupted else str(error) or type(error).__name__
        lines = [message, *getattr(error, "__notes__", ())]
        fail(" ".join(map(one_line, lines)), code=130 if interrupted else 2)
    if code:
        raise SystemExit(code)


def drop_output_if_stuck() -> None:
    """Forget output that cannot be written, or Python fails once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def messages_shown() -> Iterator[None]:
    """Show what this package logs, as plain lines on standard error."""
    package, handler = logging.getLogger("ldm_text"), logging.StreamHandler()
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def run_function(name: str) -> int | None:
    """Run one of ``COMMANDS``: the signature of the function is the command line.

    Returns:
        The exit code, of a command that has more than one for success.
    """
    from jsonargparse import auto_cli

    from ldm_text.parsers import CommandParser

    function = getattr(importlib.import_module(COMMANDS[name][0]), name)
    parser_options = {"prog": f"ldm-text {name}", "as_positional": False}
    code = auto_cli(function, args=sys.argv[2:], parser_class=CommandParser, **parser_options)
    return code if isinstance(code, int) else None


def run_training() -> None:
    """Run one of ``TRAINING``."""
    from ldm_text.training_command import train

    train()
