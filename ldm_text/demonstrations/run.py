"""``ldm-text run_programs``: run generated programs against the tests of HumanEval or MBPP."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

from ldm_text.data.readers import read_rows
from ldm_text.data.records import string_field
from ldm_text.demonstrations.programs import Problem, TextsAre, read_problems, task_id
from ldm_text.demonstrations.rates import mean_and_error, pass_at_k
from ldm_text.demonstrations.sandbox import STATUSES, Limits, Outcome, Sandbox
from ldm_text.whole_lines import WholeLinesFile, check_output_file


def prompt_programs(data: str, output: Path) -> None:
    """Write the prompts of HumanEval or MBPP for a model that writes functions from descriptions.

    Each line has the ``task_id``; as ``source`` the description, which is the first paragraph of
    the docstring in HumanEval and the text in MBPP; and as ``prefix`` the beginning of the
    function, which the problem gives:
    ``ldm-text generate --control.prefix_field prefix --columns '[task_id]'``.

    Args:
        data: The problems.
        output: JSON Lines file to write.
    """
    check_output_file("--output", output)
    lines = [
        json.dumps(
            {"task_id": problem.id, "source": problem.description, "prefix": problem.header},
            ensure_ascii=False,
        )
        for problem in read_problems(data)
    ]
    with WholeLinesFile(output) as file:
        file.write_lines(lines)


def run_programs(
    data: str,
    texts: Path,
    output: Path,
    texts_are: TextsAre = "functions",
    pass_at: tuple[int, ...] = (1,),
    limits: Limits | None = None,
    num_workers: int = 1,
    allow_network: bool = False,
    allow_root: bool = False,
) -> None:
    """Run generated programs against the tests of their problems, and write what came out as JSON.

    Programs run one by one in a sandbox: without network, within the limits, with an empty
    environment, in an empty folder. A problem without a text counts as not solved.

    Args:
        data: The problems: HumanEval or MBPP.
        texts: The programs, a file of ``ldm-text generate`` with ``--columns '[task_id]'``; several
            samples of a problem are several lines.
        output: JSON file to write.
        texts_are: Whether a text is a whole function, or goes on where the source ends, which is a
            sentence in MBPP and excludes that.
        pass_at: For each k the estimate of the chance that one of k samples passes.
        limits: Bounds of each program, such as ``--limits.timeout_s 5``.
        num_workers: Programs that run at the same time.
        allow_network: Run programs where they cannot be isolated, with the network and the files
            that this user has.
        allow_root: Run programs although this is root; they run as the user nobody.

    Raises:
        ValueError: If a file cannot be read, a problem has fewer samples than a k or no beginning
            that its texts could go on from, or programs cannot be isolated here.
    """
    check_output_file("--output", output)
    if num_workers < 1:
        raise ValueError(f"`--num_workers` must be at least 1, got {num_workers}.")
    problems = read_problems(data)
    samples = read_samples(texts, problems)
    num_samples = max(map(len, samples.values()))
    if not pass_at or min(pass_at) < 1 or max(pass_at) > num_samples:
        raise ValueError(
            f"`--pass_at` must hold numbers from 1 to the number of samples of a problem "
            f"({num_samples}), got {pass_at}."
        )
    jobs = [(problem, text) for problem in problems for text in samples[problem.id]]
    programs = [problem.program(text, texts_are) for problem, text in jobs]
    limits = limits or Limits()
    sandbox = Sandbox(limits, allow_network=allow_network, allow_root=allow_root)
    with ThreadPoolExecutor(num_workers) as pool:
        found: dict[str | int, list[Outcome]] = defaultdict(list)
        for (problem, _), outcome in zip(jobs, pool.map(sandbox.run, programs), strict=True):
            found[problem.id].append(outcome)
    report = {
        "data": {"path": data, "num_problems": len(problems)},
        "texts": {"path": str(texts), "texts_are": texts_are, "num_samples": num_samples},
        "sandbox": {"isolated": sandbox.isolate, **vars(limits)},
    }
    report |= summarize(problems, found, pass_at, num_samples)
    with WholeLinesFile(output) as file:
        file.write_lines([json.dumps(report, indent=2, ensure_ascii=False)])
    sys.stdout.write(table(report))


def read_samples(path: Path, problems: Sequence[Problem]) -> dict[str | int, list[str]]:
    """Read the texts of each problem; one may have none.

    Raises:
        ValueError: If the file cannot be read, or no text is one of a problem.
    """
    samples: dict[str | int, list[str]] = {problem.id: [] for problem in problems}
    try:
        for place, row in read_rows(path):
            try:
                name, text = task_id(row), string_field(row, "text")
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            if name in samples:
                samples[name].append(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"`--texts`: {error}") from error
    if not any(samples.values()):
        raise ValueError(f"`--texts`: no row of {path} has the `task_id` of a problem.")
    return samples


def summarize(
    problems: Sequence[Problem],
    outcomes: dict[str | int, list[Outcome]],
    pass_at: Sequence[int],
    num_samples: int,
) -> dict[str, Any]:
    """Count how programs ended, and estimate pass@k.

    A sample that a problem lacks counts as one that did not pass.
    """
    counts = Counter(one.status for found in outcomes.values() for one in found)
    passed = {
        problem.id: sum(one.status == "passed" for one in outcomes[problem.id])
        for problem in problems
    }
    estimates = {
        k: [pass_at_k(num_samples, passed[problem.id], k) for problem in problems] for k in pass_at
    }
    return {
        "pass_at": {str(k): mean_and_error(shares) for k, shares in estimates.items()},
        "programs": {status: counts[status] for status in STATUSES},
        "num_missing": num_samples * len(problems) - sum(counts.values()),
        "mean_seconds": fmean(one.seconds for found in outcomes.values() for one in found),
        "problems": [
            {"task_id": problem.id, "outcomes": [vars(one) for one in outcomes[problem.id]]}
            for problem in problems
        ],
    }


def table(report: dict[str, Any]) -> str:
    """Write the main figures as lines of text."""
    lines = [
        f"pass@{k}: {figures['rate']:.1%} (95 %: {figures['low']:.1%} to {figures['high']:.1%})"
        for k, figures in report["pass_at"].items()
    ]
    ended = ", ".join(f"{count} {status}" for status, count in report["programs"].items())
    return "\n".join([*lines, f"{ended}, {report['num_missing']} missing", ""])
