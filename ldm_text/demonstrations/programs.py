"""Problems of HumanEval and MBPP: what a model is asked for, and the program that is run."""

import ast
import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ldm_text.data.readers import read_rows
from ldm_text.data.records import string_field

TextsAre = Literal["functions", "completions"]


@dataclass(frozen=True)
class Problem:
    """A problem with tests.

    Attributes:
        id: Its ``task_id``.
        source: The beginning of a program, which a completion goes on from; ``None`` in MBPP, which
            has a sentence in its place.
        preamble: What must stand before a function: imports and other functions.
        tests: What stands behind it; an assertion fails if the function is wrong.
        description: What the function does, in one paragraph.
        header: How the function begins, as far as the problem tells.
    """

    id: str | int
    source: str | None
    preamble: str
    tests: str
    description: str
    header: str

    def program(self, text: str, texts_are: TextsAre) -> str:
        """Put a generated text and the tests together.

        Args:
            text: A function, or what follows the source.
            texts_are: Which of them.

        Raises:
            ValueError: If there is no beginning that a text could go on from.
        """
        beginning = self.source if texts_are == "completions" else f"{self.preamble}\n"
        if beginning is None:
            raise ValueError(
                f"`--texts_are completions`: problem {self.id!r} has no beginning of a program to "
                "go on from, as none of MBPP has. Leave the option out."
            )
        return f"{beginning}{text}\n{self.tests}\n"


def read_problems(path: str | Path) -> list[Problem]:
    """Read problems of HumanEval (``test``, ``entry_point``) or MBPP (``test_list``).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else, or a problem twice.
    """
    problems: dict[str | int, Problem] = {}
    for place, row in read_rows(path, split="test"):
        try:
            problem = _mbpp_problem(row) if "test_list" in row else _human_eval_problem(row)
            if problem.id in problems:
                raise ValueError(f"problem {problem.id!r} stands twice.")
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"{place}: {error}") from error
        problems[problem.id] = problem
    return list(problems.values())


def task_id(row: Mapping[str, Any]) -> str | int:
    """Return the name of a row's problem.

    Raises:
        ValueError: If it has none.
    """
    value = row.get("task_id")
    if not isinstance(value, str | int):
        raise ValueError(f"`task_id` must be a string or a number, got {value!r}.")
    return value


def _human_eval_problem(row: Mapping[str, Any]) -> Problem:
    source, name = string_field(row, "source"), string_field(row, "entry_point")
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    if name not in functions:
        raise ValueError(f"`source` has no function {name!r}, the `entry_point`.")
    function = functions[name]
    docstring, before = _docstring(function)
    preamble = "\n".join(source.splitlines()[: function.lineno - 1])
    tests = f"{string_field(row, 'test')}\ncheck({name})"
    description, header = _first_paragraph(docstring), _header(function, before)
    return Problem(task_id(row), source, preamble, tests, description, header)


def _docstring(function: ast.FunctionDef) -> tuple[str, list[ast.stmt]]:
    """Return the first string of a function, and the statements before it: one may import."""
    for index, node in enumerate(function.body):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value, function.body[:index]
    raise ValueError(f"`source` describes the function {function.name!r} by no docstring.")


def _header(function: ast.FunctionDef, body: list[ast.stmt]) -> str:
    """Write the beginning of a function, as Python prints it from its syntax tree."""
    beginning = ast.FunctionDef(
        function.name, function.args, [*body, ast.Pass()], [], function.returns, lineno=1
    )
    return ast.unparse(beginning).removesuffix("    pass")


def _first_paragraph(docstring: str) -> str:
    """Return what stands before the first empty line or example, on one line."""
    return " ".join(re.split(r"\n\s*\n|>>>", docstring)[0].split())


def _mbpp_problem(row: Mapping[str, Any]) -> Problem:
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(one, str) for one in tests):
        raise ValueError("`test_list` must be a list of assertions.")
    source, name = string_field(row, "source"), _tested_function(tests[0])
    # It may need the classes of the solution, and therefore stands behind it.
    setup = string_field(row, "test_setup_code")
    return Problem(task_id(row), None, "", "\n".join([setup, *tests]), source, f"def {name}(")


def _tested_function(test: str) -> str:
    """Find the function that an assertion calls: the outermost one that Python does not have.

    If Python has them all, the problem is to write one of them anew: the outermost.
    """
    calls = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    names = [function.id for function in calls if isinstance(function, ast.Name)]
    if not names:
        raise ValueError(f"the test {test[:80]!r} calls no function.")
    return next((name for name in names if not hasattr(builtins, name)), names[0])
