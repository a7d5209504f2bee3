"""``ldm-text score_task``: check generated texts of a task."""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ldm_text.data.readers import read_rows
from ldm_text.data.records import TextRecord, string_field
from ldm_text.demonstrations.rates import mean_and_error
from ldm_text.demonstrations.task import Task
from ldm_text.demonstrations.tasks import TASKS, TaskName
from ldm_text.evaluation.references import read_text_sets
from ldm_text.evaluation.text_table import aligned
from ldm_text.whole_lines import WholeLinesFile, check_output_file

ALL = "all"  # name of the group of all rows
MAX_EXAMPLES = 5

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class TaskSource:
    """A source with its right texts and its group; ``None`` where the task has no groups."""

    source: str
    targets: tuple[str, ...]
    group: Any


def score_task(
    task: TaskName,
    data: str,
    texts: Path,
    output: Path,
    max_rows: int | None = None,
) -> None:
    """Check the texts of a task, and write the shares of right ones, by group, as JSON.

    Args:
        task: The task.
        data: Its validation data: ``source``, ``target`` and the field that results are grouped by.
        texts: A file of ``ldm-text generate``; rows are matched by their source. Several samples of
            a source are averaged first.
        output: JSON file to write. A table goes to standard output.
        max_rows: Check only the texts of so many sources, the first ones.

    Raises:
        ValueError: If a file cannot be read, or a source has no text.
    """
    check_output_file("--output", output)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`--max_rows` must be at least 1, got {max_rows}.")
    checker = TASKS[task]
    sources = read_sources(data, checker)[:max_rows]
    records = [TextRecord(one.targets[0], one.source) for one in sources]
    sets = read_text_sets(texts, records)
    samples = list(zip(*sets, strict=True))
    groups = score(checker, sources, samples)
    own = score(checker, sources, [one.targets[:1] for one in sources])
    report = {
        "task": task,
        "data": {"path": data, "num_sources": len(sources)},
        "texts": {"path": str(texts), "num_samples": len(sets)},
        "group_field": checker.group_field,
        "groups": groups,
        "targets": {name: figures["rate"] for name, figures in own[ALL]["checks"].items()},
        "examples": examples(checker, sources, sets[0]),
    }
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    sys.stdout.write(table(groups, checker.group_field))


def read_sources(data: str, task: Task) -> list[TaskSource]:
    """Read the sources of a task in their order, each with all its targets.

    Raises:
        ValueError: If the data cannot be read.
    """
    targets: dict[str, list[str]] = defaultdict(list)
    groups: dict[str, Any] = {}
    try:
        for place, row in read_rows(data, split="validation"):
            try:
                source, target = string_field(row, "source"), string_field(row, "target")
                if task.group_field is not None and task.group_field not in row:
                    raise ValueError(f"no field `{task.group_field}`.")
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            targets[source].append(target)
            groups.setdefault(source, row.get(str(task.group_field)))
    except (OSError, ValueError) as error:
        raise ValueError(f"`--data`: {error}") from error
    return [TaskSource(source, tuple(own), groups[source]) for source, own in targets.items()]


def score(
    task: Task, sources: Sequence[TaskSource], samples: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Average the checks of texts, over all sources and over those of each group.

    Args:
        task: The task.
        sources: Its sources.
        samples: The texts of each source, at least one.

    Returns:
        For each group, ``all`` first, ``num_sources`` and a figure a check; its error is over
        sources.
    """
    rows: dict[str, list[dict[str, float]]] = {ALL: []}
    groups = sorted({one.group for one in sources if one.group is not None})
    rows |= {str(group): [] for group in groups}
    for one, texts in zip(sources, samples, strict=True):
        found = [task.check(one.source, text, one.targets) for text in texts]
        shares = {name: fmean(row[name] for row in found) for name in found[0]}
        for group in (ALL, *([] if one.group is None else [str(one.group)])):
            rows[group].append(shares)
    return {
        group: {"num_sources": len(kept), "checks": average(kept)} for group, kept in rows.items()
    }


def average(rows: Sequence[dict[str, float]]) -> Figures:
    """Average each check over rows."""
    return {name: mean_and_error([row[name] for row in rows]) for name in rows[0]}


def examples(
    task: Task, sources: Sequence[TaskSource], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Show some texts beside what is right about them."""
    shown = list(zip(sources, texts, strict=True))[:MAX_EXAMPLES]
    return [
        {"source": one.source, "text": text, "target": one.targets[0]}
        | task.check(one.source, text, one.targets)
        for one, text in shown
    ]


def table(groups: dict[str, dict[str, Any]], group_field: str | None) -> str:
    """Write rates in per cent, with their standard errors, as lines of text."""
    checks = list(groups[ALL]["checks"])
    cells = [[group_field or "", "sources", *checks]]
    for group, figures in groups.items():
        rates = [
            f"{100 * one['rate']:.1f} +- {100 * one['standard_error']:.1f}"
            if "standard_error" in one
            else f"{100 * one['rate']:.1f}"
            for one in figures["checks"].values()
        ]
        cells.append([group, str(figures["num_sources"]), *rates])
    return aligned(cells)
