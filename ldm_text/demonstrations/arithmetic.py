"""Arithmetic with the answer before the working: ``(3+4)*2`` gives ``14: 3+4=7, 7*2=14``.

A model that writes from left to right has to know the answer before it has worked it out; one that
writes all at once can do both together.
"""

import ast
import operator
import random
import re
from collections.abc import Sequence

Expression = int | tuple[str, "Expression", "Expression"]

LARGEST = 99  # absolute value of every number, also on the way
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
NODES: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
MAX_CHARACTERS = 1000  # of an expression that is read; its value has no more digits
NUMBER = rf"(-?\d{{1,{MAX_CHARACTERS}}})"  # Python refuses to read numbers of thousands of digits
STEP = re.compile(rf"{NUMBER}([-+*]){NUMBER}={NUMBER}")


def evaluate(tree: Expression) -> int:
    """Compute the value of an expression."""
    if isinstance(tree, int):
        return tree
    sign, left, right = tree
    return OPERATIONS[sign](evaluate(left), evaluate(right))


def render(tree: Expression) -> str:
    """Write an expression, each operation inside another one in parentheses."""
    if isinstance(tree, int):
        return str(tree)
    sign, *operands = tree
    return sign.join(
        render(one) if isinstance(one, int) else f"({render(one)})" for one in operands
    )


def parse(text: str) -> Expression:
    """Read an expression of numbers, ``+``, ``-``, ``*`` and parentheses.

    Raises:
        ValueError: If it is none.
    """
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"it has more than {MAX_CHARACTERS} characters")
        return _expression(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{text[:80]!r} is no expression of the task: {error}.") from error


def _expression(node: ast.expr) -> Expression:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in NODES:
        return NODES[type(node.op)], _expression(node.left), _expression(node.right)
    raise ValueError(f"{type(node).__name__} is not allowed")


def work_out(tree: Expression) -> list[str]:
    """List the steps ``a+b=c`` of an evaluation, from the left and from the inside."""
    if isinstance(tree, int):
        return []
    sign, left, right = tree
    last = f"{evaluate(left)}{sign}{evaluate(right)}={evaluate(tree)}"
    return [*work_out(left), *work_out(right), last]


def take_step(tree: Expression, step: tuple[int, str, int]) -> Expression | None:
    """Replace the first operation on two numbers that is ``step``; None if there is none."""
    if isinstance(tree, int):
        return None
    sign, left, right = tree
    if (left, sign, right) == step:
        return evaluate(tree)
    if (reduced := take_step(left, step)) is not None:
        return sign, reduced, right
    if (reduced := take_step(right, step)) is not None:
        return sign, left, reduced
    return None


def is_working(tree: Expression, steps: Sequence[str]) -> bool:
    """Tell whether true steps, in any possible order, lead from an expression to a number."""
    for step in steps:
        match = STEP.fullmatch(step)
        if match is None:
            return False
        left, sign, right, result = int(match[1]), match[2], int(match[3]), int(match[4])
        reduced = take_step(tree, (left, sign, right))
        if reduced is None or OPERATIONS[sign](left, right) != result:
            return False
        tree = reduced
    return isinstance(tree, int)


class Arithmetic:
    """Answer first: an expression as source; as target its value, then the working.

    An expression of depth d nests d operations, one inside the other; one of them may have a second
    operand that is an operation, too.
    """

    group_field = "depth"
    groups = (1, 2, 3, 4, 5)

    def make(self, group: int, draw: random.Random) -> tuple[str, str]:
        """Draw an expression of a depth."""
        tree: Expression = _number(draw)
        level_of_second = draw.randrange(group + 1)  # 0 and 1 are none
        for level in range(1, group + 1):
            other: Expression = _number(draw)
            if level == level_of_second > 1:
                other = _combine(other, _number(draw), draw)
            pair = (tree, other) if draw.random() < 0.5 else (other, tree)
            tree = _combine(*pair, draw)
        return render(tree), f"{evaluate(tree)}: {', '.join(work_out(tree))}"

    def check(self, source: str, text: str, targets: Sequence[str]) -> dict[str, bool]:
        """Check answer and working.

        Returns:
            ``correct``: the answer is the value of the expression; ``working``: the steps are true
            and lead from the expression to a number; ``consistent``: the last step gives the
            answer, be it right or wrong.
        """
        tree = parse(source)
        answer, _, working = (part.strip() for part in text.partition(":"))
        steps = working.split(", ")
        return {
            "correct": answer == str(evaluate(tree)),
            "working": is_working(tree, steps),
            "consistent": bool(answer) and steps[-1].endswith(f"={answer}"),
        }


def _number(draw: random.Random) -> int:
    """Draw a number of one digit or of two, so that products are not rare."""
    return draw.randint(1, 9) if draw.random() < 0.5 else draw.randint(10, LARGEST)


def _combine(left: Expression, right: Expression, draw: random.Random) -> Expression:
    """Join two expressions by one of the operations whose value is not too large.

    There always is one: of sum and difference, one is the difference of the absolute values.
    """
    trees = [(sign, left, right) for sign in OPERATIONS]
    return draw.choice([tree for tree in trees if abs(evaluate(tree)) <= LARGEST])
