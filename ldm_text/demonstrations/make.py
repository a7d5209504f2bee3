"""``ldm-text make_task``: write training and validation data of a generated task."""

import json
import logging
import random
from pathlib import Path
from typing import Any

from ldm_text.demonstrations.task import GeneratedTask
from ldm_text.demonstrations.tasks import GENERATED_TASKS, GeneratedTaskName
from ldm_text.whole_lines import WholeLinesFile, check_output_file

MAX_DRAWS = 1000  # in a row that may bring nothing new

Rows = list[dict[str, Any]]

logger = logging.getLogger(__name__)


def make_task(
    task: GeneratedTaskName,
    output: Path,
    num_train: int = 20_000,
    num_validation: int = 500,
    seed: int = 0,
) -> None:
    """Write the training and the validation records of a generated task.

    No source of the validation records is one of the training, and the validation records do not
    depend on the number of training records. All groups have as many records, give or take one.

    Args:
        task: The task.
        output: Folder to write ``train.jsonl`` and ``validation.jsonl`` into, made where it is
            missing. Each line has ``source``, ``target`` and the field that results are grouped by.
        num_train: Number of training records.
        num_validation: Number of validation records.
        seed: Seed of the records.

    Raises:
        ValueError: If a number is too small, or so many different records cannot be drawn.
    """
    for name, value, least in (
        ("num_train", num_train, 1),
        ("num_validation", num_validation, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"`--{name}` must be at least {least}, got {value}.")
    output.mkdir(parents=True, exist_ok=True)
    files = {name: output / f"{name}.jsonl" for name in ("train", "validation")}
    for path in files.values():
        check_output_file("--output", path)
    parts = make_parts(GENERATED_TASKS[task], num_train, num_validation, seed)
    for (name, path), rows in zip(files.items(), parts, strict=True):
        with WholeLinesFile(path) as file:
            file.write_lines([json.dumps(row, ensure_ascii=False) for row in rows])
        logger.info("%s: %d records in %s.", name, len(rows), path)


def make_parts(
    task: GeneratedTask, num_train: int, num_validation: int, seed: int
) -> tuple[Rows, Rows]:
    """Draw training and validation records.

    A validation source stands in one record; a training source may have several targets.

    Raises:
        ValueError: If so many different records cannot be drawn.
    """
    draw = random.Random(f"{seed} validation")
    held_out: set[str] = set()
    validation: Rows = []
    for index in range(num_validation):
        validation.append(_draw_row(task, index, draw, held_out, "num_validation"))
        held_out.add(validation[-1]["source"])
    draw = random.Random(f"{seed} train")
    seen: set[tuple[str, str]] = set()
    train: Rows = []
    for index in range(num_train):
        train.append(_draw_row(task, index, draw, held_out, "num_train", seen))
        seen.add((train[-1]["source"], train[-1]["target"]))
    return train, validation


def _draw_row(
    task: GeneratedTask,
    index: int,
    draw: random.Random,
    held_out: set[str],
    option: str,
    seen: set[tuple[str, str]] | frozenset[tuple[str, str]] = frozenset(),
) -> dict[str, Any]:
    """Draw a record whose source is not held out and which was not seen before."""
    group = task.groups[index % len(task.groups)]
    for _ in range(MAX_DRAWS):
        source, target = task.make(group, draw)
        if source not in held_out and (source, target) not in seen:
            return {"source": source, "target": target, str(task.group_field): group}
    raise ValueError(
        f"`--{option}`: no new record of {task.group_field} {group} was found in {MAX_DRAWS} draws "
        f"after {index} records; ask for fewer."
    )
