"""Every generated task: its data are right, its splits apart, its checks see what is wrong."""

import json
import random

import pytest

from ldm_text.demonstrations.make import make_parts, make_task
from ldm_text.demonstrations.tasks import GENERATED_TASKS, TASKS

NAMES = list(GENERATED_TASKS)


@pytest.fixture(scope="module")
def parts():
    return {name: make_parts(task, 300, 60, 0) for name, task in GENERATED_TASKS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_targets_pass_all_checks(parts, name):
    for row in [*parts[name][0], *parts[name][1]]:
        found = GENERATED_TASKS[name].check(row["source"], row["target"], ())
        assert next(iter(found)) == "correct"
        assert all(found.values()), (row, found)


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_other_sources_rarely_pass(parts, name):
    """A check that looked at the text alone would pass them all."""
    rows = parts[name][0]
    pairs = zip(rows, rows[5:], strict=False)  # of the same group
    right = [
        GENERATED_TASKS[name].check(one["source"], other["target"], ())["correct"]
        for one, other in pairs
    ]
    assert sum(right) < 0.1 * len(right)


@pytest.mark.parametrize("name", NAMES)
def test_any_text_can_be_checked(parts, name):
    draw = random.Random(0)
    task, rows = GENERATED_TASKS[name], parts[name][0]
    broken = ["", " ", ":", ",", "[" * 100_000, "NaN", '{"a": 1, "a": 2}', "\ud800"]
    for row in rows[:50]:
        characters = list(row["target"])
        characters[draw.randrange(len(characters))] = draw.choice("0(x,]")
        broken.append("".join(characters))
    names = task.check(rows[0]["source"], rows[0]["target"], ()).keys()
    for text in broken:
        found = task.check(rows[0]["source"], text, ())
        assert found.keys() == names
        assert not found["correct"] or text.strip() != ""


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_source_and_groups_are_even(parts, name):
    task, (train, validation) = GENERATED_TASKS[name], parts[name]
    held_out = {row["source"] for row in validation}
    assert len(held_out) == len(validation) == 60
    assert not held_out & {row["source"] for row in train}
    assert len({(row["source"], row["target"]) for row in train}) == len(train) == 300
    for rows in (train, validation):
        counts = [sum(row[task.group_field] == group for row in rows) for group in task.groups]
        assert counts == [len(rows) // len(task.groups)] * len(task.groups)


@pytest.mark.parametrize("name", NAMES)
def test_data_depend_on_the_seed_alone(parts, name):
    task = GENERATED_TASKS[name]
    assert make_parts(task, 300, 60, 0) == parts[name]
    assert make_parts(task, 30, 60, 0)[1] == parts[name][1]
    assert make_parts(task, 300, 60, 1)[0] != parts[name][0]


def test_command_writes_both_files(main, tmp_path):
    folder = tmp_path / "new" / "lists"
    sizes = ["--num_train", 20, "--num_validation", 10]
    code, _, error = main("make_task", "--task", "lists", "--output", folder, *sizes)
    assert code == 0
    assert error.count("\n") == 2
    for part, size in (("train", 20), ("validation", 10)):
        rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
        assert len(rows) == size
        assert set(rows[0]) == {"source", "target", "num_items"}


def test_more_records_than_there_are_is_refused(tmp_path):
    class OneList:
        group_field, groups = "size", (1,)

        def make(self, group, draw):
            return "a", "b"

        def check(self, source, text, targets):
            return {"correct": True}

    with pytest.raises(ValueError, match=r"`--num_train`: no new record of size 1 was found"):
        make_parts(OneList(), 1, 1, 0)
    with pytest.raises(ValueError, match="`--num_validation` must be at least 1, got 0"):
        make_task("lists", tmp_path, num_validation=0)


def check(name, source, text, *targets):
    return {key for key, is_right in TASKS[name].check(source, text, targets).items() if is_right}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("14: 3+4=7, 7*2=14", {"correct", "working", "consistent"}),
        ("14", {"correct"}),
        ("14: ", {"correct"}),
        ("14: 3+4=7, 7*2=15", {"correct"}),
        ("15: 3+4=7, 7*2=14", {"working"}),
        ("15: 3+4=7, 7*2=15", {"consistent"}),
        ("14: 7*2=14", {"correct", "consistent"}),  # a step is missing
        ("14: 4+3=7, 7*2=14", {"correct", "consistent"}),  # no step of this expression
        ("14: 3+4=7, 7*2=14, 7*2=14", {"correct", "consistent"}),  # a step too many
        ("14: 7*2=14, 3+4=7", {"correct"}),  # 7 is not known yet
        ("4: 3+4=7, 7*2=14", {"working"}),
        (f"14: 3+4=7, 7*2={'1' * 5000}", {"correct"}),  # more digits than Python reads
        (f"14: {'3' * 5000}+4=7, 7*2=14", {"correct", "consistent"}),
    ],
)
def test_answer_and_working_are_checked_apart(text, right):
    assert check("arithmetic", "(3+4)*2", text) == right


def test_independent_steps_may_stand_in_any_order():
    for working in ("1+2=3, 9-5=4", "9-5=4, 1+2=3"):
        assert "working" in check("arithmetic", "(1+2)-(9-5)", f"-1: {working}, 3-4=-1")


def test_depth_is_that_of_the_expression():
    draw, task = random.Random(0), GENERATED_TASKS["arithmetic"]
    for depth in task.groups:
        for _ in range(50):
            source, target = task.make(depth, draw)
            level = [
                source[:end].count("(") - source[:end].count(")") for end in range(len(source))
            ]
            assert max(level) == depth - 1
            assert abs(int(target.split(":")[0])) <= 99


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("arithmetic", "__import__('os')"),
        ("arithmetic", "1/2"),
        ("arithmetic", "1+" * 600 + "1"),
        ("lists", "3 cars from a to b"),
        ("lists", "three fruits from fig to pear"),
        ("brackets", "12"),
        ("json_schema", "name"),
        ("json_schema", "name: text"),
        ("json_schema", "a: {b: string"),
        ("json_schema", "a: string, "),
        ("json_schema", "a: {" * 50 + "b: string" + "}" * 50),
    ],
)
def test_a_source_of_another_kind_is_refused(name, source):
    with pytest.raises(ValueError, match=r"is no |is not understood"):
        check(name, source, "x")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("fig, lime, pear", set()),
        ("fig,lime , pear", set()),
        ("fig, lime, plum, pear", {"number"}),
        ("fig, pear", {"number"}),
        ("fig, pear, lime", {"last"}),
        ("lime, fig, pear", {"first"}),
        ("fig, fig, pear", {"different"}),
        ("fig, cow, pear", {"kind"}),
        ("fig, , pear", {"kind"}),
    ],
)
def test_lists_tell_what_is_wrong(text, wrong):
    checks = {"first", "last", "number", "different", "kind"}
    right = checks - wrong | (set() if wrong else {"correct"})
    assert check("lists", "3 fruits from fig to pear", text) == right


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("( [ ] ( ) )", set()),
        ("([]())", set()),
        ("( [ ] )", {"length"}),
        ("( [ ) ] ( )", {"balanced"}),
        ("( [ ] ) ) (", {"balanced"}),
        ("( [ ] ( ( )", {"balanced"}),
        ("( ) [ ] ( )", {"beginning"}),
        ("( [ x ] ) )", {"balanced"}),
    ],
)
def test_brackets_tell_what_is_wrong(text, wrong):
    right = {"balanced", "length", "beginning"} - wrong | (set() if wrong else {"correct"})
    assert check("brackets", "6: ( [", text) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"a": "x", "b": [1, 2], "c": {"d": true, "e": "on"}}', {"correct", "parses", "fields"}),
        ('{"b":[1,2],"a":"","c":{"e":"off","d":false}}', {"correct", "parses", "fields"}),
        ('{"a": "x", "b": [1], "c": {"d": true, "e": "on"}}', {"parses", "fields"}),
        ('{"a": "x", "b": [1, true], "c": {"d": true, "e": "on"}}', {"parses", "fields"}),
        ('{"a": 1, "b": [1, 2], "c": {"d": true, "e": "on"}}', {"parses", "fields"}),
        ('{"a": "x", "b": [1, 2], "c": {"d": 1, "e": "on"}}', {"parses", "fields"}),
        ('{"a": "x", "b": [1, 2], "c": {"d": true, "e": "no"}}', {"parses", "fields"}),
        ('{"a": "x", "b": [1, 2], "c": {"d": true}}', {"parses", "fields"}),
        ('{"a": "x", "b": [1, 2]}', {"parses"}),
        ('{"a": "x", "a": "x", "b": [1, 2], "c": {"d": true, "e": "on"}}', set()),
        ("[]", {"parses"}),
        ("{'a': 1}", set()),
        ("NaN", set()),
    ],
)
def test_json_is_checked_against_its_schema(text, right):
    schema = "a: string, b: 2 integers, c: {d: boolean, e: on or off}"
    assert check("json_schema", schema, text) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("tar  xf {{a.tar}}", {"correct", "but_for_placeholders", "program"}),
        ("tar xf {{b}}", {"but_for_placeholders", "program"}),
        ("tar tf {{a.tar}}", {"program"}),
        ("gzip xf {{a.tar}}", set()),
        ("", set()),
    ],
)
def test_commands_are_compared_with_those_of_the_data(text, right):
    assert check("tldr_commands", "x", text, "cat {{a}}", "tar xf {{a.tar}}") == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("def f(a,b):  return a + b", {"correct", "signature", "parses"}),
        ("def f(a: int, b):\n    return b", {"signature", "parses"}),
        ("def f(a):\n    return a", {"parses"}),
        ("def f(a, b): return '\\d'", {"signature", "parses"}),
        ("print(1)", set()),
        ("def f(a, b):\n    return a +", set()),
        ("def f():\n    return " + "(" * 500 + ")" * 500, set()),
        ("def f(): return '\0'", set()),
    ],
)
def test_functions_are_compared_as_syntax_trees(text, right):
    assert check("python_functions", "x", text, "def f(a, b):\n    return a + b") == right
