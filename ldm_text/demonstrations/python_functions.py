"""Python functions from the first paragraph of their docstrings."""

import ast
import warnings
from collections.abc import Sequence


def parse_function(text: str) -> ast.FunctionDef | None:
    """Read a program that is one function; None if it is anything else. Nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as those on odd escapes in strings
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return body[0] if len(body) == 1 and isinstance(body[0], ast.FunctionDef) else None


def signature(function: ast.FunctionDef) -> str:
    """Write name and arguments of a function, without types."""
    arguments = ast.walk(function.args)
    return " ".join([function.name, *(one.arg for one in arguments if isinstance(one, ast.arg))])


class PythonFunctions:
    """A function that does what a description says, compared with those of the data.

    It is not run: the data have no tests. ``ldm-text run_programs`` runs those of HumanEval, MBPP.
    """

    group_field = None

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Compare a function.

        Returns:
            ``correct``: it is a target, but for its layout; ``signature``: its name and the names
            of its arguments are; ``parses``: it is one function.
        """
        function = parse_function(text)
        if function is None:
            return {"correct": False, "signature": False, "parses": False}
        known = [found for target in targets if (found := parse_function(target)) is not None]
        return {
            "correct": ast.dump(function) in map(ast.dump, known),
            "signature": signature(function) in map(signature, known),
            "parses": True,
        }
